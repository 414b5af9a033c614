import java.io.BufferedReader;
import java.io.ByteArrayOutputStream;
import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.lang.reflect.Proxy;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Properties;
import java.util.TreeMap;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;
import java.util.function.Consumer;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.ListOffsetsOptions;
import org.apache.kafka.clients.admin.ListTopicsOptions;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.clients.consumer.ConsumerGroupMetadata;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.IsolationLevel;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.UnknownTopicOrPartitionException;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.Headers;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * The stock client, admin and console tools behind one process, so that a test pays for one JVM start.
 *
 * `Driver client HOST:PORT`: each line on stdin is a command and its arguments, separated by tabs. The answer is
 * any number of lines "=" + tab-separated fields, then "." or "!" + error. Bytes are hex, null is "~".
 * `Driver broker FILE`: kafka.Kafka itself, which dies with its parent (when stdin ends).
 */
public final class Driver {
    private static final Duration WAIT = Duration.ofSeconds(30);
    private static final PrintStream ANSWERS = new PrintStream(new FileOutputStream(FileDescriptor.out), false, StandardCharsets.UTF_8);
    private static final HexFormat HEX = HexFormat.of();
    private static final ByteArrayOutputStream toolOutput = new ByteArrayOutputStream();
    private static final ByteArrayOutputStream toolErrors = new ByteArrayOutputStream();
    private static volatile Integer toolStatus;

    private final String bootstrap;
    private final Map<String, KafkaProducer<byte[], byte[]>> transactions = new HashMap<>();
    private final List<KafkaConsumer<byte[], byte[]>> members = new ArrayList<>();
    private Admin admin;

    private Driver(String bootstrap) {
        this.bootstrap = bootstrap;
    }

    public static void main(String[] args) throws Exception {
        if (args[0].equals("broker")) {
            broker(args[1]);
        } else {
            client(args[1]);
        }
    }

    private static void broker(String properties) throws Exception {
        Thread orphanWatch = new Thread(() -> {
            try {
                while (System.in.read() >= 0) { }
            } catch (java.io.IOException e) {
                // Same meaning as the end of input: nobody is left to stop this broker.
            }
            Runtime.getRuntime().halt(1);
        });
        orphanWatch.setDaemon(true);
        orphanWatch.start();
        call("kafka.Kafka", new String[] {properties});
    }

    private static void client(String bootstrap) throws Exception {
        // The tools print to System.out, which Scala's Console keeps from its first use: so it is replaced once, here.
        System.setOut(new PrintStream(toolOutput, true, StandardCharsets.UTF_8));
        System.setErr(new PrintStream(toolErrors, true, StandardCharsets.UTF_8));
        trapExit();
        Driver driver = new Driver(bootstrap);
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            try {
                driver.run(line.split("\t", -1));
                ANSWERS.println(".");
            } catch (ExecutionException e) {
                ANSWERS.println("!" + oneLine(e.getCause()));
            } catch (Throwable e) {
                ANSWERS.println("!" + oneLine(e) + " at " + Arrays.toString(e.getStackTrace()));
            }
            ANSWERS.flush();
        }
        Runtime.getRuntime().halt(0);
    }

    private void run(String[] a) throws Exception {
        switch (a[0]) {
            case "topics" -> topics();
            case "features" -> features();
            case "configs" -> configs(a[1]);
            case "create" -> create(a[1], Integer.parseInt(a[2]), a);
            case "delete" -> delete(a[1]);
            case "grow" -> grow(a[1], Integer.parseInt(a[2]));
            case "alter" -> alter(a[1], a[2], a[3]);
            case "trim" -> trim(new TopicPartition(a[1], Integer.parseInt(a[2])), Long.parseLong(a[3]));
            case "alter-group" -> alterGroup(a[1], a[2], a[3]);
            case "offsets" -> offsets(a[1], a[2], a.length > 3 ? a[3] : "read_uncommitted");
            case "consume" -> consume(a[1], a[2]);
            case "records" -> records(a[1], a[2]);
            case "group-read" -> groupRead(a[1], a[2], a.length > 3 ? a[3] : "classic");
            case "join" -> join(a[1], a[2], a[3]);
            case "groups" -> groups();
            case "committed" -> committed(a[1]);
            case "commit" -> commit(a[1], new TopicPartition(a[2], Integer.parseInt(a[3])), Long.parseLong(a[4]), a[5]);
            case "produce" -> produce(a[1], Integer.parseInt(a[2]), a[3], a[4], Integer.parseInt(a[5]), Integer.parseInt(a[6]), a[7]);
            case "batch" -> batch(a[1], Integer.parseInt(a[2]), a[3], Arrays.copyOfRange(a, 4, a.length));
            case "transaction" -> transaction(a[1], a[2], a);
            case "send" -> send(a[1], Integer.parseInt(a[2]), Long.parseLong(a[3]), unhex(a[4]), unhex(a[5]));
            case "tool" -> tool(a[1], Arrays.copyOfRange(a, 2, a.length));
            default -> throw new IllegalArgumentException("unknown command " + a[0]);
        }
    }

    // Topics

    private void topics() throws Exception {
        var names = admin().listTopics(new ListTopicsOptions().listInternal(true)).names().get();
        for (var t : new TreeMap<>(admin().describeTopics(names).allTopicNames().get()).values()) {
            long led = t.partitions().stream().filter(p -> p.leader() != null).count();
            row(t.name(), t.topicId(), t.partitions().size(), led);
        }
    }

    private void features() throws Exception {
        var features = admin().describeFeatures().featureMetadata().get().finalizedFeatures();
        new TreeMap<>(features).forEach((name, levels) -> row(name, levels.maxVersionLevel()));
    }

    private void configs(String topic) throws Exception {
        ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
        var entries = new ArrayList<>(admin().describeConfigs(List.of(resource)).all().get().get(resource).entries());
        entries.sort(java.util.Comparator.comparing(ConfigEntry::name));
        for (ConfigEntry entry : entries) {
            row(entry.name(), entry.value(), entry.source());
        }
    }

    private void create(String topic, int partitions, String[] a) throws Exception {
        Map<String, String> configs = new HashMap<>();
        for (int i = 3; i < a.length; i++) {
            int equals = a[i].indexOf('=');
            configs.put(a[i].substring(0, equals), a[i].substring(equals + 1));
        }
        admin().createTopics(List.of(new NewTopic(topic, partitions, (short) 1).configs(configs))).all().get();
        settle(() -> led(topic) == partitions);
    }

    private void delete(String topic) throws Exception {
        admin().deleteTopics(List.of(topic)).all().get();
        settle(() -> !admin().listTopics().names().get().contains(topic));
    }

    private void grow(String topic, int partitions) throws Exception {
        admin().createPartitions(Map.of(topic, NewPartitions.increaseTo(partitions))).all().get();
        settle(() -> led(topic) == partitions);
    }

    private void alter(String topic, String name, String value) throws Exception {
        ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
        AlterConfigOp.OpType type = value.equals("~") ? AlterConfigOp.OpType.DELETE : AlterConfigOp.OpType.SET;
        AlterConfigOp op = new AlterConfigOp(new ConfigEntry(name, value), type);
        admin().incrementalAlterConfigs(Map.of(resource, List.of(op))).all().get();
        settle(() -> {
            ConfigEntry now = admin().describeConfigs(List.of(resource)).all().get().get(resource).get(name);
            boolean own = now.source() == ConfigEntry.ConfigSource.DYNAMIC_TOPIC_CONFIG;
            return type == AlterConfigOp.OpType.DELETE ? !own : own && now.value().equals(value);
        });
    }

    private void trim(TopicPartition p, long before) throws Exception {
        admin().deleteRecords(Map.of(p, RecordsToDelete.beforeOffset(before))).all().get();
    }

    private void alterGroup(String group, String name, String value) throws Exception {
        ConfigResource resource = new ConfigResource(ConfigResource.Type.valueOf("GROUP"), group);
        AlterConfigOp op = new AlterConfigOp(new ConfigEntry(name, value), AlterConfigOp.OpType.SET);
        admin().incrementalAlterConfigs(Map.of(resource, List.of(op))).all().get();
    }

    /** The controller answers before the broker has caught up with it. */
    private static void settle(Callable<Boolean> done) throws Exception {
        long deadline = System.nanoTime() + WAIT.toNanos();
        while (true) {
            try {
                if (done.call()) {
                    return;
                }
            } catch (ExecutionException e) {
                if (!(e.getCause() instanceof UnknownTopicOrPartitionException)) {
                    throw e;
                }
            }
            if (System.nanoTime() > deadline) {
                throw new IllegalStateException("the broker does not follow its controller");
            }
            Thread.sleep(10);
        }
    }

    private long led(String topic) throws Exception {
        var all = admin().describeTopics(List.of(topic)).allTopicNames().get().get(topic).partitions();
        return all.stream().filter(p -> p.leader() != null).count();
    }

    private void offsets(String topic, String at, String isolation) throws Exception {
        OffsetSpec spec = switch (at) {
            case "earliest" -> OffsetSpec.earliest();
            case "latest" -> OffsetSpec.latest();
            case "max-timestamp" -> OffsetSpec.maxTimestamp();
            default -> OffsetSpec.forTimestamp(Long.parseLong(at));
        };
        Map<TopicPartition, OffsetSpec> ask = new HashMap<>();
        partitions(topic).forEach(p -> ask.put(p, spec));
        IsolationLevel level = IsolationLevel.valueOf(isolation.toUpperCase(java.util.Locale.ROOT));
        var answers = admin().listOffsets(ask, new ListOffsetsOptions(level)).all().get();
        for (TopicPartition p : partitions(topic)) {
            row(p.partition(), answers.get(p).offset(), answers.get(p).timestamp(), answers.get(p).leaderEpoch().orElse(-1));
        }
    }

    // Records

    private void consume(String topic, String isolation) throws Exception {
        try (var consumer = consumer(Map.of("isolation.level", isolation))) {
            List<TopicPartition> all = partitions(topic);
            consumer.assign(all);
            consumer.seekToBeginning(all);
            drain(consumer, consumer.endOffsets(all, WAIT), Driver::record);
        }
    }

    /** All that the consumer tells of each record. */
    private void records(String topic, String isolation) throws Exception {
        try (var consumer = consumer(Map.of("isolation.level", isolation))) {
            List<TopicPartition> all = partitions(topic);
            consumer.assign(all);
            consumer.seekToBeginning(all);
            drain(consumer, consumer.endOffsets(all, WAIT), r -> row(r.partition(), r.offset(), r.timestamp(), r.timestampType(),
                r.leaderEpoch().orElse(-1), hex(r.key()), hex(r.value()), headers(r.headers())));
        }
    }

    private void groupRead(String group, String topic, String protocol) throws Exception {
        Map<String, String> settings = new HashMap<>(Map.of("group.id", group, "isolation.level", "read_committed"));
        if (protocol.equals("classic")) {
            settings.put("session.timeout.ms", "6000");
        } else {
            settings.put("group.protocol", protocol);
        }
        try (var consumer = consumer(settings)) {
            consumer.subscribe(List.of(topic));
            drain(consumer, consumer.endOffsets(partitions(topic), WAIT), Driver::record);
            consumer.commitSync(WAIT);
        }
    }

    /** A member that commits what it got at first and stays as long as this process. */
    private void join(String group, String topic, String protocol) throws Exception {
        Map<String, String> settings = new HashMap<>(Map.of("group.id", group, "group.instance.id", "static", "max.poll.records", "3"));
        if (!protocol.equals("classic")) {
            settings.put("group.protocol", protocol);
        }
        var consumer = consumer(settings);
        members.add(consumer);
        consumer.subscribe(List.of(topic));
        settle(() -> !consumer.poll(Duration.ofMillis(100)).isEmpty());
        consumer.commitSync(WAIT);
    }

    /** Reads every partition from its present position up to `ends`. */
    private static void drain(KafkaConsumer<byte[], byte[]> consumer, Map<TopicPartition, Long> ends, Consumer<ConsumerRecord<byte[], byte[]>> tell) {
        long deadline = System.nanoTime() + WAIT.toNanos();
        while (consumer.assignment().size() < ends.size() || !ends.entrySet().stream().allMatch(
                end -> consumer.position(end.getKey(), WAIT) >= end.getValue())) {
            if (System.nanoTime() > deadline) {
                throw new IllegalStateException("read for " + WAIT.toSeconds() + " s without reaching " + ends + " from " + positions(consumer));
            }
            ConsumerRecords<byte[], byte[]> records = consumer.poll(Duration.ofMillis(100));
            for (ConsumerRecord<byte[], byte[]> r : records) {
                tell.accept(r);
                deadline = System.nanoTime() + WAIT.toNanos();
            }
        }
    }

    private static Map<TopicPartition, Long> positions(KafkaConsumer<?, ?> consumer) {
        Map<TopicPartition, Long> all = new HashMap<>();
        consumer.assignment().forEach(p -> all.put(p, consumer.position(p, WAIT)));
        return all;
    }

    /** Answers what it wrote, in the form of `consume`; `outcome` is none, commit or abort (of a transaction). */
    private void produce(String topic, int partition, String codec, String outcome, int count, int bytes, String tag) throws Exception {
        Properties p = new Properties();
        p.put("bootstrap.servers", bootstrap);
        p.put("compression.type", codec);
        p.put("linger.ms", "20");
        if (!outcome.equals("none")) {
            p.put("transactional.id", tag);
        }
        try (var producer = new KafkaProducer<>(p, new ByteArraySerializer(), new ByteArraySerializer())) {
            if (!outcome.equals("none")) {
                producer.initTransactions();
                producer.beginTransaction();
            }
            List<ProducerRecord<byte[], byte[]>> sent = new ArrayList<>();
            List<Future<RecordMetadata>> places = new ArrayList<>();
            for (int i = 0; i < count; i++) {
                var record = new ProducerRecord<>(topic, partition < 0 ? null : partition, (tag + "-" + i).getBytes(StandardCharsets.UTF_8), value(tag, i, bytes));
                if (i % 3 == 0) {
                    record.headers().add("h", new byte[] {(byte) i, 0, -1}).add("h", null).add("\u00fc", new byte[0]);
                }
                sent.add(record);
                places.add(producer.send(record));
            }
            producer.flush();
            if (outcome.equals("commit")) {
                producer.commitTransaction();
            } else if (outcome.equals("abort")) {
                producer.abortTransaction();
            }
            for (int i = 0; i < count; i++) {
                RecordMetadata at = places.get(i).get();
                ProducerRecord<byte[], byte[]> record = sent.get(i);
                record(at.partition(), at.offset(), at.timestamp(), record.key(), record.value(), record.headers());
            }
        }
    }

    private void send(String topic, int partition, long timestamp, byte[] key, byte[] value) throws Exception {
        Properties p = new Properties();
        p.put("bootstrap.servers", bootstrap);
        try (var producer = new KafkaProducer<>(p, new ByteArraySerializer(), new ByteArraySerializer())) {
            var record = new ProducerRecord<>(topic, partition, timestamp, key, value);
            RecordMetadata at = producer.send(record).get();
            record(at.partition(), at.offset(), at.timestamp(), key, value, record.headers());
        }
    }

    /** Records "time;key;value;header=value,..." in as few batches as the client makes; time "-" is now. */
    private void batch(String topic, int partition, String codec, String[] records) throws Exception {
        Properties p = new Properties();
        p.put("bootstrap.servers", bootstrap);
        p.put("compression.type", codec);
        p.put("linger.ms", "1000");
        try (var producer = new KafkaProducer<>(p, new ByteArraySerializer(), new ByteArraySerializer())) {
            List<Future<RecordMetadata>> places = new ArrayList<>();
            for (String text : records) {
                String[] parts = text.split(";", -1);
                Long time = parts[0].equals("-") ? null : Long.valueOf(parts[0]);
                var record = new ProducerRecord<>(topic, partition, time, unhex(parts[1]), unhex(parts[2]));
                for (String header : parts[3].isEmpty() ? new String[0] : parts[3].split(",")) {
                    int equals = header.indexOf('=');
                    record.headers().add(new String(unhex(header.substring(0, equals)), StandardCharsets.UTF_8), unhex(header.substring(equals + 1)));
                }
                places.add(producer.send(record));
            }
            producer.flush();
            for (Future<RecordMetadata> at : places) {
                row(at.get().partition(), at.get().offset());
            }
        }
    }

    /** A transaction that stays open between commands, and for ever if nobody ends it before this process dies. */
    private void transaction(String id, String verb, String[] a) throws Exception {
        KafkaProducer<byte[], byte[]> producer = transactions.get(id);
        switch (verb) {
            case "begin" -> {
                if (producer == null) {
                    Properties p = new Properties();
                    p.put("bootstrap.servers", bootstrap);
                    p.put("transactional.id", id);
                    p.put("transaction.timeout.ms", "900000");
                    producer = new KafkaProducer<>(p, new ByteArraySerializer(), new ByteArraySerializer());
                    producer.initTransactions();
                    transactions.put(id, producer);
                }
                producer.beginTransaction();
            }
            case "send" -> {
                for (int i = 0; i < Integer.parseInt(a[5]); i++) {
                    producer.send(new ProducerRecord<>(a[3], Integer.parseInt(a[4]), (a[6] + "-" + i).getBytes(StandardCharsets.UTF_8), value(a[6], i, 20)));
                }
                producer.flush();
            }
            case "offset" -> {
                var what = new OffsetAndMetadata(Long.parseLong(a[6]), Optional.empty(), id);
                producer.sendOffsetsToTransaction(Map.of(new TopicPartition(a[4], Integer.parseInt(a[5])), what), new ConsumerGroupMetadata(a[3]));
            }
            case "commit" -> producer.commitTransaction();
            case "abort" -> producer.abortTransaction();
            default -> throw new IllegalArgumentException("unknown verb " + verb);
        }
    }

    private static byte[] value(String tag, int i, int bytes) {
        StringBuilder text = new StringBuilder(tag).append(" value ").append(i).append(' ');
        while (text.length() < bytes) {
            text.append((char) ('a' + text.length() * 7 % 26));
        }
        return text.toString().getBytes(StandardCharsets.UTF_8);
    }

    // Groups

    @SuppressWarnings("removal") // listGroups, its successor, is not in 3.9
    private void groups() throws Exception {
        for (var g : admin().listConsumerGroups().all().get()) {
            row(g.groupId());
        }
    }

    private void committed(String group) throws Exception {
        var all = admin().listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get();
        var sorted = new TreeMap<TopicPartition, OffsetAndMetadata>(
            java.util.Comparator.comparing(TopicPartition::topic).thenComparing(TopicPartition::partition));
        sorted.putAll(all);
        sorted.forEach((p, o) -> row(p.topic(), p.partition(), o.offset(), o.leaderEpoch().orElse(-1), o.metadata()));
    }

    private void commit(String group, TopicPartition p, long offset, String metadata) throws Exception {
        var what = new OffsetAndMetadata(offset, Optional.empty(), metadata);
        admin().alterConsumerGroupOffsets(group, Map.of(p, what)).all().get();
    }

    // Console tools, each in this JVM

    /** The tool's output goes back line by line as it stands; a non-zero exit status is an error. */
    private void tool(String name, String[] args) throws Exception {
        toolOutput.reset();
        toolErrors.reset();
        toolStatus = null;
        try {
            call(name, args);
        } catch (ToolExit exit) {
            // Its status is in toolStatus.
        }
        String text = toolOutput.toString(StandardCharsets.UTF_8);
        if (toolStatus != null && toolStatus != 0) {
            String errors = toolErrors.toString(StandardCharsets.UTF_8);
            throw new IllegalStateException(name + " exited with " + toolStatus + ": " + text + errors);
        }
        text.lines().forEach(line -> ANSWERS.println("=" + line));
    }

    /** The first call is the tool's own; some tools catch the error that unwinds them and then exit again. */
    private static void leaveTool(int status, String message) {
        if (toolStatus == null) {
            toolStatus = status;
        }
        throw new ToolExit();
    }

    /** The class through which the tools exit moved in 4.4. */
    private static void trapExit() throws Exception {
        Class<?> exit;
        try {
            exit = Class.forName("org.apache.kafka.common.utils.Exit");
        } catch (ClassNotFoundException e) {
            exit = Class.forName("org.apache.kafka.common.utils.internals.Exit");
        }
        Class<?> procedure = Class.forName(exit.getName() + "$Procedure");
        Object leave = Proxy.newProxyInstance(procedure.getClassLoader(), new Class<?>[] {procedure}, (self, method, a) -> {
            leaveTool((Integer) a[0], (String) a[1]);
            return null;
        });
        exit.getMethod("setExitProcedure", procedure).invoke(null, leave);
        exit.getMethod("setHaltProcedure", procedure).invoke(null, leave);
    }

    private static void call(String main, String[] args) throws Exception {
        try {
            Class.forName(main).getMethod("main", String[].class).invoke(null, (Object) args);
        } catch (java.lang.reflect.InvocationTargetException e) {
            if (e.getCause() instanceof ToolExit exit) {
                throw exit;
            }
            throw new ExecutionException(e.getCause());
        }
    }

    private static final class ToolExit extends Error {
        private static final long serialVersionUID = 1;

        ToolExit() {
            super(null, null, false, false);
        }
    }

    // Plumbing

    private Admin admin() {
        if (admin == null) {
            admin = Admin.create(Map.of("bootstrap.servers", bootstrap, "default.api.timeout.ms", (int) WAIT.toMillis()));
        }
        return admin;
    }

    private KafkaConsumer<byte[], byte[]> consumer(Map<String, String> settings) {
        Properties p = new Properties();
        p.put("bootstrap.servers", bootstrap);
        p.put("enable.auto.commit", "false");
        p.put("auto.offset.reset", "earliest");
        p.put("allow.auto.create.topics", "false");
        // A consumer that closes waits for its last fetch.
        p.put("fetch.max.wait.ms", "20");
        p.putAll(settings);
        return new KafkaConsumer<>(p, new ByteArrayDeserializer(), new ByteArrayDeserializer());
    }

    private List<TopicPartition> partitions(String topic) throws Exception {
        return admin().describeTopics(List.of(topic)).allTopicNames().get().get(topic).partitions().stream()
            .map(p -> new TopicPartition(topic, p.partition())).toList();
    }

    private static void record(ConsumerRecord<byte[], byte[]> r) {
        record(r.partition(), r.offset(), r.timestamp(), r.key(), r.value(), r.headers());
    }

    private static void record(int partition, long offset, long timestamp, byte[] key, byte[] value, Headers headers) {
        row(partition, offset, timestamp, hex(key), hex(value), headers(headers));
    }

    private static StringBuilder headers(Headers headers) {
        StringBuilder all = new StringBuilder();
        for (Header h : headers) {
            all.append(all.length() == 0 ? "" : ",").append(hex(h.key().getBytes(StandardCharsets.UTF_8))).append('=').append(hex(h.value()));
        }
        return all;
    }

    private static void row(Object... fields) {
        StringBuilder line = new StringBuilder("=");
        for (int i = 0; i < fields.length; i++) {
            line.append(i == 0 ? "" : "\t").append(fields[i] == null ? "~" : fields[i]);
        }
        ANSWERS.println(line);
    }

    private static String hex(byte[] bytes) {
        return bytes == null ? "~" : HEX.formatHex(bytes);
    }

    private static byte[] unhex(String text) {
        return text.equals("~") ? null : HEX.parseHex(text);
    }

    private static String oneLine(Throwable e) {
        return String.valueOf(e).replaceAll("\\s+", " ");
    }
}
