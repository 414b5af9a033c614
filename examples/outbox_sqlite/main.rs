//! An application's SQLite database and the log, kept in step without two-phase commit. In: a transaction writes its
//! order and a row of an outbox; rows are appended in order, each at the offset that its number says. Out: what a
//! record does and how far was read are one SQLite transaction. So each side knows what it has, whenever it is killed.
//!
//! `cargo run --example outbox_sqlite -- DIRECTORY` works on, for a moment; `-- DIRECTORY --kills N` does so in a child
//! that is killed N times, and checks that every order has had its effect once.

use std::io::{self, BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, Transaction, params};
use thalweg::{Broker, ErrorKind, Offset, Partition, Record};

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const USAGE: &str = "usage: outbox_sqlite DIRECTORY [--kills N]";
const TOPIC: &str = "orders";
const CUSTOMERS: i64 = 7;
/// Rows that are appended as one batch, at most.
const BATCH: usize = 20;
/// A child lives for at least so many steps.
const STEPS_BEFORE_KILL: usize = 6;
/// A run without kills ends after so many rounds.
const ROUNDS: usize = 100;
/// `balances` and `position` change together; so do `orders` and `outbox`. An outbox row's number counts from 1 without
/// a gap, as only committed rows have one: the row's place in the log is that number less 1.
const SCHEMA: &str = "
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL;
    CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, customer INTEGER NOT NULL, amount INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS outbox (number INTEGER PRIMARY KEY, customer INTEGER NOT NULL, amount INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS balances (customer INTEGER PRIMARY KEY, amount INTEGER NOT NULL, orders INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS position (topic TEXT PRIMARY KEY, next INTEGER NOT NULL);
";

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let outcome = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [dir] => Application::open(Path::new(dir)).and_then(|mut app| app.run(Some(ROUNDS))),
        [dir, "--for-ever"] => Application::open(Path::new(dir)).and_then(|mut app| {
            app.tells_steps = true;
            app.run(None)
        }),
        [dir, "--kills", kills] => kills.parse().map_err(Into::into).and_then(|kills| kill(Path::new(dir), kills)),
        _ => Err(USAGE.into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("outbox_sqlite: {e}");
            ExitCode::FAILURE
        }
    }
}

struct Application {
    database: Connection,
    broker: Broker,
    log: Partition,
    tells_steps: bool,
}

impl Application {
    fn open(dir: &Path) -> Outcome<Self> {
        std::fs::create_dir_all(dir)?;
        let database = Connection::open(dir.join("application.sqlite"))?;
        database.execute_batch(SCHEMA)?;
        let broker = Broker::open(dir.join("log"))?;
        let log = broker.topic(TOPIC).open_or_create()?.partition(0)?;
        Ok(Self { database, broker, log, tells_steps: false })
    }

    /// Takes orders, relays them and applies them, in turns that a kill may cut off anywhere.
    fn run(&mut self, rounds: Option<usize>) -> Outcome<()> {
        for _ in 0..rounds.unwrap_or(usize::MAX) {
            for _ in 0..5 {
                self.take_order()?;
            }
            self.step("ordered")?;
            self.relay()?;
            self.step("relayed")?;
            self.apply()?;
            self.step("applied")?;
        }
        self.settle()?;
        println!("{}", self.check()?);
        Ok(self.broker.close()?)
    }

    /// Tells whoever is going to kill it where it is.
    fn step(&self, done: &str) -> Outcome<()> {
        if self.tells_steps {
            writeln!(io::stdout(), "{done}")?;
        }
        Ok(())
    }

    /// What the application is for: an order, and with it, in the same transaction, the event that tells of it.
    fn take_order(&mut self) -> Outcome<()> {
        let transaction = self.database.transaction()?;
        let id: i64 = transaction.query_row("SELECT coalesce(max(id), 0) + 1 FROM orders", [], |row| row.get(0))?;
        let order = params![id, id % CUSTOMERS, id * 37 % 1_000];
        transaction.execute("INSERT INTO orders VALUES (?1, ?2, ?3)", order)?;
        transaction.execute("INSERT INTO outbox VALUES (?1, ?2, ?3)", order)?;
        Ok(transaction.commit()?)
    }

    /// Appends the outbox's oldest rows to the log, in order; `false` when there are none. A row goes once it is in the
    /// log and survives loss of power there. Killed in between, the row is found in both, and the log's end says so.
    fn relay(&mut self) -> Outcome<bool> {
        let end = self.log.offsets()?.end;
        // What the log has already; wait, since the process that appended it may not have lived to see it durable.
        self.log.sync()?;
        self.database.execute("DELETE FROM outbox WHERE number <= ?1", [end.get()])?;
        let rows = self.outbox()?;
        let Some((first, _)) = rows.first() else { return Ok(false) };
        if *first != end.get() + 1 {
            return Err(format!("the log ends at {end}, and the outbox begins with row {first}").into());
        }
        let last = end.get() + rows.len() as i64;
        // At this end only: should another process relay as well, one of them appends and the other sees it.
        match self.log.append_records_if(end, rows.into_iter().map(|(_, record)| record)) {
            Ok(appended) => self.log.wait(appended.position, self.log.durability())?,
            Err(e) if e.kind() == ErrorKind::Conflict => return Ok(true),
            Err(e) => return Err(e.into()),
        }
        self.step("appended")?;
        self.database.execute("DELETE FROM outbox WHERE number <= ?1", [last])?;
        Ok(true)
    }

    fn outbox(&self) -> Outcome<Vec<(i64, Record)>> {
        let sql = format!("SELECT number, customer, amount FROM outbox ORDER BY number LIMIT {BATCH}");
        let mut query = self.database.prepare_cached(&sql)?;
        let rows = query.query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?)))?;
        let record = |(number, customer, amount): (i64, i64, i64)| {
            (number, Record::from((customer.to_string(), amount.to_string())))
        };
        Ok(rows.map(|row| row.map(record)).collect::<Result<_, _>>()?)
    }

    /// Applies what is in the log and was not applied; `false` when there is nothing. The position is the database's own:
    /// no group and no committed offset, which a kill could part from the effect.
    fn apply(&mut self) -> Outcome<bool> {
        let transaction = self.database.transaction()?;
        let from = position(&transaction)?;
        let mut next = from;
        for record in self.log.scan(from) {
            let record = record?;
            let number = |bytes: Option<&[u8]>| Outcome::Ok(str::from_utf8(bytes.unwrap_or_default())?.parse::<i64>()?);
            transaction.execute(
                "INSERT INTO balances VALUES (?1, ?2, 1)
                 ON CONFLICT DO UPDATE SET amount = amount + excluded.amount, orders = orders + 1",
                [number(record.key())?, number(record.value())?],
            )?;
            next = record.offset().next();
        }
        transaction.execute("INSERT OR REPLACE INTO position VALUES (?1, ?2)", params![TOPIC, next.get()])?;
        transaction.commit()?;
        Ok(next > from)
    }

    fn settle(&mut self) -> Outcome<()> {
        while self.relay()? {}
        while self.apply()? {}
        Ok(())
    }

    /// Compares what was ordered with what came of it, once all is settled.
    fn check(&self) -> Outcome<String> {
        let count = |sql| self.database.query_row(sql, [], |row| row.get::<_, i64>(0));
        let (orders, outbox) = (count("SELECT count(*) FROM orders")?, count("SELECT count(*) FROM outbox")?);
        let wrong = count(
            "SELECT count(*) FROM
                (SELECT customer, sum(amount) AS amount, count(*) AS orders FROM orders GROUP BY customer) AS due
                FULL JOIN balances AS is_there USING (customer)
             WHERE due.amount IS NOT is_there.amount OR due.orders IS NOT is_there.orders",
        )?;
        let end = self.log.offsets()?.end.get();
        let line = format!("{orders} orders, {end} records, {outbox} rows in the outbox, {wrong} balances wrong");
        if orders > 0 && end == orders && outbox == 0 && wrong == 0 { Ok(line) } else { Err(line.into()) }
    }
}

fn position(transaction: &Transaction<'_>) -> Outcome<Offset> {
    let sql = "SELECT next FROM position WHERE topic = ?1";
    let next = transaction.query_row(sql, [TOPIC], |row| row.get::<_, i64>(0)).optional()?;
    Ok(next.map_or(Offset::ZERO, Offset::new))
}

#[expect(clippy::disallowed_methods, reason = "waits for nothing: a kill may come at any moment")]
fn die_any_moment(n: usize) {
    std::thread::sleep(Duration::from_micros(n as u64 * 1_237 % 10_000));
}

/// Has a child work on `dir` and kills it, time after time, each at another of its steps; then settles and checks.
fn kill(dir: &Path, kills: usize) -> Outcome<()> {
    for n in 0..kills {
        let mut child =
            Command::new(std::env::current_exe()?).arg(dir).arg("--for-ever").stdout(Stdio::piped()).spawn()?;
        // It goes on meanwhile, so that the kill comes somewhere behind the step.
        let mut steps = child.stdout.take().map(BufReader::new).into_iter().flat_map(BufRead::lines);
        let reached = steps.by_ref().take(STEPS_BEFORE_KILL + n * 7 % 24).count();
        die_any_moment(n);
        child.kill()?; // SIGKILL, on Unix.
        let status = child.wait()?;
        if reached < STEPS_BEFORE_KILL || status.code().is_some() {
            return Err(format!("the child was to be killed, and ended by itself: {status}").into());
        }
    }
    let mut app = Application::open(dir)?;
    app.settle()?;
    println!("after {kills} kills: {}", app.check()?);
    Ok(app.broker.close()?)
}
