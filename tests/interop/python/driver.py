"""The clients of librdkafka (confluent-kafka) and kafka-python behind one process.

`driver.py HOST:PORT` speaks the protocol of `../java/Driver.java`: each line on stdin is a command and its
arguments with tabs between; the answer is lines "=" + fields, then "." or "!" + error. Bytes are hex, null is "~".
"""

import sys

import confluent_kafka
import kafka

WAIT = 30


def main(bootstrap):
    for line in sys.stdin:
        words = line.rstrip("\n").split("\t")
        try:
            for row in COMMANDS[words[0]](bootstrap, *words[1:]):
                print("=" + "\t".join(str(field) for field in row))
            print(".")
        except Exception as error:  # whatever the client says is the answer
            print("!" + " ".join(repr(error).split()))
        sys.stdout.flush()


def unhex(text):
    return None if text == "~" else bytes.fromhex(text)


def records(count, tag):
    """As the Java driver numbers them; a third of them has headers, one of them null."""
    for i in range(int(count)):
        headers = [("h", bytes([i % 256, 0, 255])), ("h", None), ("\u00fc", b"")] if i % 3 == 0 else []
        yield f"{tag}-{i}".encode(), f"{tag} value {i} ".encode().ljust(60, b"."), headers


def librdkafka_produce(bootstrap, topic, partition, codec, outcome, count, tag):
    """`outcome`: none, idempotent, commit or abort."""
    config = {"bootstrap.servers": bootstrap, "compression.type": codec, "linger.ms": 100}
    if outcome == "idempotent":
        config["enable.idempotence"] = True
    if outcome in ("commit", "abort"):
        config["transactional.id"] = tag
    producer = confluent_kafka.Producer(config)
    if outcome in ("commit", "abort"):
        producer.init_transactions(WAIT)
        producer.begin_transaction()
    placed = []

    def acknowledged(error, message):
        placed.append(error or (message.partition(), message.offset()))

    for key, value, headers in records(count, tag):
        producer.produce(topic, value, key, int(partition), headers=headers, on_delivery=acknowledged)
    if producer.flush(WAIT):
        raise TimeoutError(f"{len(producer)} records of librdkafka are not acknowledged")
    if outcome == "commit":
        producer.commit_transaction(WAIT)
    elif outcome == "abort":
        producer.abort_transaction(WAIT)
    for place in placed:
        if isinstance(place, confluent_kafka.KafkaError):
            raise confluent_kafka.KafkaException(place)
        yield place


def librdkafka_read(bootstrap, group, topic):
    """Reads all that the group has not read, commits it."""
    consumer = confluent_kafka.Consumer({
        "bootstrap.servers": bootstrap,
        "group.id": group,
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        "enable.partition.eof": True,
        "session.timeout.ms": 6000,
    })
    consumer.subscribe([topic])
    partitions = len(consumer.list_topics(topic, WAIT).topics[topic].partitions)
    ended, read = set(), 0
    while len(ended) < partitions:
        message = consumer.poll(WAIT)
        if message is None:
            raise TimeoutError(f"librdkafka read {read} records and then nothing")
        if not message.error():
            read += 1
        elif message.error().code() == confluent_kafka.KafkaError._PARTITION_EOF:
            ended.add(message.partition())
        else:
            raise confluent_kafka.KafkaException(message.error())
    if read:
        consumer.commit(asynchronous=False)
    consumer.close()
    yield (read,)


def kafka_python_produce(bootstrap, topic, partition, codec, count, tag):
    producer = kafka.KafkaProducer(bootstrap_servers=bootstrap, compression_type=None if codec == "none" else codec, linger_ms=100)
    sent = [
        producer.send(topic, value, key, [(k, v) for k, v in headers if v is not None], int(partition))
        for key, value, headers in records(count, tag)
    ]
    producer.flush(WAIT)
    for future in sent:
        place = future.get(WAIT)
        yield place.partition, place.offset
    producer.close()


def kafka_python_send(bootstrap, topic, partition, timestamp, key, value):
    """One record at any time, also before 1970, which the Java client refuses."""
    producer = kafka.KafkaProducer(bootstrap_servers=bootstrap)
    place = producer.send(topic, unhex(value), unhex(key), None, int(partition), int(timestamp)).get(WAIT)
    producer.close()
    yield place.partition, place.offset


def kafka_python_read(bootstrap, group, topic):
    """Reads all that the group has not read, commits it."""
    consumer = kafka.KafkaConsumer(
        topic, bootstrap_servers=bootstrap, group_id=group, auto_offset_reset="earliest", enable_auto_commit=False,
        consumer_timeout_ms=2000,
    )
    read = sum(1 for _ in consumer)
    consumer.commit()
    consumer.close()
    yield (read,)


COMMANDS = {
    "librdkafka-produce": librdkafka_produce,
    "librdkafka-read": librdkafka_read,
    "kafka-python-produce": kafka_python_produce,
    "kafka-python-send": kafka_python_send,
    "kafka-python-read": kafka_python_read,
}

if __name__ == "__main__":
    main(sys.argv[1])
