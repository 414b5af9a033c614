//! The golden vectors, for the tests of this floor.

/// The bytes of a vector in hex.
pub(super) fn bytes(hex: &str) -> Vec<u8> {
    let digit = |c: u8| u8::try_from((c as char).to_digit(16).expect("hex")).expect("one digit");
    hex.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

/// Name, key and value of the records whose name begins with `prefix`.
pub(super) fn records(prefix: &str) -> Vec<(String, Vec<u8>, Vec<u8>)> {
    let vectors: serde_json::Value =
        serde_json::from_str(include_str!("../../tests/data/vectors.json")).expect("vectors");
    let all = vectors["records"].as_object().expect("records");
    let hex = |name: &str| bytes(all[name]["hex"].as_str().expect("hex"));
    let names = all.keys().filter_map(|name| name.strip_suffix("_K").filter(|name| name.starts_with(prefix)));
    names.map(|name| (name.to_owned(), hex(&format!("{name}_K")), hex(&format!("{name}_V")))).collect()
}
