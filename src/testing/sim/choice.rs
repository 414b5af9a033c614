//! Which unsynced changes survive a crash, and how such a choice is written down so that it can be made again.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::disk::{Disk, Id};
use super::luck::Luck;

/// Something that a power cut may take or leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Item {
    Length(Id),
    Page(Id, u64),
    /// A creation, renaming or removal, by its place among those that are pending.
    Name(usize),
}

/// What becomes of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Old,
    New,
    /// The newest version up to this stamp.
    AsOf(u64),
    /// One of the versions since the last sync.
    Version(usize),
    Zero,
    Garbage(u64),
    /// New bytes in these sectors, old ones in the others.
    Torn(u8),
}

impl Fate {
    /// The version that survives; `None` is the old one.
    pub(super) fn pick<T: Clone>(self, versions: &[(u64, T)]) -> Option<T> {
        let chosen = match self {
            Self::AsOf(stamp) => versions.iter().rev().find(|(at, _)| *at <= stamp),
            Self::Version(index) => versions.get(index % versions.len().max(1)),
            Self::Old | Self::Zero => None,
            Self::New | Self::Garbage(_) | Self::Torn(_) => versions.last(),
        };
        chosen.map(|(_, version)| version.clone())
    }
}

/// What a crash takes. Written as text and read back, it makes the same crash again.
///
/// ```
/// use thalweg::testing::Choice;
/// let choice: Choice = "random:2a".parse().map_err(|_| "no choice")?;
/// assert_eq!(choice, Choice::Random(42));
/// assert_eq!(choice.to_string(), "random:2a");
/// # Ok::<(), &str>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Choice {
    /// The process dies, the machine goes on: nothing is lost that the operating system was given.
    ProcessCrash,
    /// Power is cut and every unsynced change is gone.
    Nothing,
    /// Power is cut and every unsynced change happened to be on the disk.
    All,
    /// Only the newest change survives.
    OnlyLast,
    /// Only names and lengths survive: the bytes of what was written are the old ones, or zeros.
    OnlyMetadata,
    /// Only bytes within the old lengths survive, under the old names.
    OnlyBytes,
    /// Everything up to some moment survives, nothing after it.
    InOrder(u64),
    /// Bytes and lengths at random: old, new, in between, torn by sectors, zeros or garbage; names up to some moment,
    /// as a journal keeps them (ext4, XFS).
    Journaled(u64),
    /// As `Journaled`, but each name by itself: what POSIX allows.
    Random(u64),
    /// The changes whose bits are set survive, of the first 64.
    Subset(u64),
}

impl Choice {
    /// Whether unsynced changes can be lost.
    #[must_use]
    pub fn is_power_cut(self) -> bool {
        self != Self::ProcessCrash
    }

    pub(super) fn fates(self, disk: &Disk) -> BTreeMap<Item, Fate> {
        let items = disk.unsynced();
        let stamps = || items.iter().flat_map(|(_, stamps)| stamps.iter().copied());
        let newest = stamps().max().unwrap_or(0);
        let mut luck = Luck::new(match self {
            Self::InOrder(seed) | Self::Journaled(seed) | Self::Random(seed) => seed,
            _ => 0,
        });
        let oldest = stamps().min().unwrap_or(0);
        let moment = oldest + luck.below(usize::try_from(newest - oldest + 2).unwrap_or(usize::MAX)) as u64;
        let moment = moment.saturating_sub(1);
        let keep = |kept: bool| if kept { Fate::New } else { Fate::Old };
        let mut fates = BTreeMap::new();
        for (index, (item, stamps)) in items.iter().enumerate() {
            let is_name = matches!(item, Item::Name(_));
            let last = stamps.last().copied().unwrap_or(0);
            let fate = match self {
                Self::ProcessCrash | Self::All => Fate::New,
                Self::Nothing => Fate::Old,
                Self::OnlyLast => keep(last == newest),
                Self::OnlyMetadata => keep(!matches!(item, Item::Page(..))),
                Self::OnlyBytes => keep(matches!(item, Item::Page(..))),
                Self::InOrder(_) if is_name => keep(last <= moment),
                Self::InOrder(_) => Fate::AsOf(moment),
                Self::Journaled(_) if is_name => keep(last <= moment),
                Self::Random(_) if is_name => keep(luck.smiles()),
                Self::Journaled(_) | Self::Random(_) => random(&mut luck, matches!(item, Item::Page(..))),
                Self::Subset(bits) => keep(index < 64 && bits >> index & 1 == 1),
            };
            fates.insert(*item, fate);
        }
        fates
    }

    /// About `count` different choices for a disk in this state. All subsets of what is unsynced when there are at
    /// most `exhaustive` items, otherwise the corners and random ones.
    pub(super) fn some(disk: &Disk, count: usize, exhaustive: usize, luck: &mut Luck) -> Vec<Self> {
        let items = disk.unsynced().len();
        if items == 0 {
            return vec![Self::ProcessCrash, Self::Nothing];
        }
        let mut choices = vec![Self::ProcessCrash];
        if items <= exhaustive.min(20) {
            choices.extend((0..1_u64 << items).map(Self::Subset));
        } else {
            choices.extend([Self::Nothing, Self::All, Self::OnlyLast, Self::OnlyMetadata, Self::OnlyBytes]);
            if count < choices.len() {
                // Not the same few at every operation.
                let from = luck.below(choices.len());
                choices.rotate_left(from);
                choices.truncate(count.div_ceil(2));
            }
        }
        for kind in [Self::Journaled, Self::Random, Self::InOrder, Self::Journaled].into_iter().cycle() {
            if choices.len() >= count {
                return choices;
            }
            // A short seed is easier to type again.
            choices.push(kind(luck.next() & 0xffff_ffff));
        }
        choices
    }
}

fn random(luck: &mut Luck, is_page: bool) -> Fate {
    let fate = luck.below(10);
    let number = luck.next();
    match fate {
        0..=2 => Fate::Old,
        3..=5 => Fate::New,
        6 => Fate::Version(luck.below(64)),
        7 | 8 if is_page => Fate::Torn(number.to_be_bytes()[0]),
        9 if is_page && number & 1 == 0 => Fate::Zero,
        9 if is_page => Fate::Garbage(number),
        _ => Fate::Version(luck.below(64)),
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ProcessCrash => f.write_str("process-crash"),
            Self::Nothing => f.write_str("nothing"),
            Self::All => f.write_str("all"),
            Self::OnlyLast => f.write_str("only-last"),
            Self::OnlyMetadata => f.write_str("only-metadata"),
            Self::OnlyBytes => f.write_str("only-bytes"),
            Self::InOrder(seed) => write!(f, "in-order:{seed:x}"),
            Self::Journaled(seed) => write!(f, "journaled:{seed:x}"),
            Self::Random(seed) => write!(f, "random:{seed:x}"),
            Self::Subset(bits) => write!(f, "subset:{bits:x}"),
        }
    }
}

/// The text is no [`Choice`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoChoice(String);

impl fmt::Display for NoChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no choice of what a crash takes", self.0)
    }
}

impl std::error::Error for NoChoice {}

impl FromStr for Choice {
    type Err = NoChoice;

    fn from_str(text: &str) -> Result<Self, NoChoice> {
        let (name, number) = text.split_once(':').unwrap_or((text, "0"));
        let number = u64::from_str_radix(number, 16).map_err(|_| NoChoice(text.to_owned()))?;
        Ok(match name {
            "process-crash" => Self::ProcessCrash,
            "nothing" => Self::Nothing,
            "all" => Self::All,
            "only-last" => Self::OnlyLast,
            "only-metadata" => Self::OnlyMetadata,
            "only-bytes" => Self::OnlyBytes,
            "in-order" => Self::InOrder(number),
            "journaled" => Self::Journaled(number),
            "random" => Self::Random(number),
            "subset" => Self::Subset(number),
            _ => return Err(NoChoice(text.to_owned())),
        })
    }
}
