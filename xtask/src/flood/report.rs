//! What was measured, as tables.

use std::{collections::BTreeMap, fmt, time::Duration};

use netlab::PingReport;

use super::{Part, client::Arrivals, scene::Beside};
use crate::{
    measure::LOST,
    table::{Table, median},
};

/// The bound on a good peer's first reply: a retry with a cookie comes after five seconds.
const GOOD: Duration = Duration::from_secs(7);

/// Samples by row and column, in the order in which they came.
#[derive(Clone, Debug, Default)]
struct Samples {
    rows: Vec<String>,
    columns: Vec<String>,
    values: BTreeMap<(usize, usize), Vec<f64>>,
}

/// All of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Report {
    beside: Samples,
    clients: Vec<(String, Arrivals)>,
    crowds: Vec<Arrivals>,
    rekeys: Samples,
}

impl Samples {
    fn add(&mut self, row: &str, column: &str, value: f64) {
        let place = (place(&mut self.rows, row), place(&mut self.columns, column));
        self.values.entry(place).or_default().push(value);
    }

    fn table(&self) -> Table {
        let mut table = Table::new(["what"].into_iter().chain(self.columns.iter().map(String::as_str)));
        for (row, name) in self.rows.iter().enumerate() {
            let cell = |column| {
                let values = self.values.get(&(row, column))?;
                median(values).map(|value| format!("{value:.2}"))
            };
            let cells = (0..self.columns.len()).map(|column| cell(column).unwrap_or_default());
            table.row([name.clone()].into_iter().chain(cells));
        }
        table
    }
}

/// Where a name stands, at the end if it is new.
fn place(names: &mut Vec<String>, name: &str) -> usize {
    names.iter().position(|known| known == name).unwrap_or_else(|| {
        names.push(name.to_owned());
        names.len() - 1
    })
}

fn millis(pings: &PingReport, percent: usize) -> f64 {
    pings.percentile_of_sent(percent).unwrap_or(LOST).as_secs_f64() * 1e3
}

impl Report {
    pub(super) fn beside(&mut self, part: Part, column: &str, beside: &Beside) {
        let mut add = |what: &str, value| self.beside.add(&format!("{part:?}: {what}"), column, value);
        if let Some(rate) = beside.flood {
            add("messages a second, thousands", rate / 1e3);
        }
        add("lost at full sockets a second, thousands", beside.lost / 1e3);
        add("victim's daemon, CPU seconds a second", beside.daemon);
        add("TCP, Gbit/s", beside.bits_per_second / 1e9);
        add("ping under TCP, p50 ms", millis(&beside.under_tcp, 50));
        add("ping under TCP, p99 ms", millis(&beside.under_tcp, 99));
        add("ping alone, p50 ms", millis(&beside.alone, 50));
        add("ping alone, p99 ms", millis(&beside.alone, 99));
    }

    pub(super) fn clients(&mut self, part: Part, which: &str, arrivals: &Arrivals) {
        self.clients.push((format!("{part:?}: {which}"), arrivals.clone()));
    }

    pub(super) fn crowd(&mut self, arrivals: &Arrivals) {
        self.crowds.push(arrivals.clone());
    }

    pub(super) fn rekey(&mut self, before: &PingReport, meanwhile: &PingReport) {
        for (column, pings) in [("before", before), ("meanwhile", meanwhile)] {
            self.rekeys.add("5,000 peers rekey: ping p50 ms", column, millis(pings, 50));
            self.rekeys.add("5,000 peers rekey: ping p99 ms", column, millis(pings, 99));
        }
    }

    /// The clients that connect beside a flood, all rounds together.
    fn clients_table(&self) -> Table {
        let mut table =
            Table::new(["first reply", "clients", "in 7 s", "never", "median s", "worst s", "by cookie"]);
        let mut names = Vec::new();
        for (name, _) in &self.clients {
            place(&mut names, name);
        }
        for name in names {
            let of_name = self.clients.iter().filter(|(other, _)| *other == name).map(|(_, all)| all);
            let all: Vec<&Arrivals> = of_name.collect();
            let sum = |count: &dyn Fn(&Arrivals) -> usize| all.iter().map(|one| count(one)).sum::<usize>();
            let clients = sum(&|one| one.clients);
            let times: Vec<f64> = all.iter().flat_map(|one| &one.times).map(Duration::as_secs_f64).collect();
            let worst = times.iter().copied().fold(0.0, f64::max);
            table.row([
                name,
                clients.to_string(),
                sum(&|one| one.within(GOOD)).to_string(),
                (clients - times.len()).to_string(),
                median(&times).map_or_else(String::new, |median| format!("{median:.2}")),
                format!("{worst:.2}"),
                sum(&|one| one.with_cookie).to_string(),
            ]);
        }
        table
    }

    fn crowds_table(&self) -> Table {
        let mut table = Table::new(["1,000 clients of one address", "all in after s", "by cookie"]);
        for (number, arrivals) in (1..).zip(&self.crowds) {
            let missing = arrivals.clients - arrivals.times.len();
            let all_in = arrivals.all_in().map(|time| format!("{:.2}", time.as_secs_f64()));
            table.row([
                format!("round {number}"),
                all_in.unwrap_or_else(|| format!("{missing} never")),
                arrivals.with_cookie.to_string(),
            ]);
        }
        table
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.beside.rows.is_empty() {
            writeln!(f, "{}", self.beside.table())?;
        }
        if !self.clients.is_empty() {
            writeln!(f, "{}", self.clients_table())?;
        }
        if !self.crowds.is_empty() {
            writeln!(f, "{}", self.crowds_table())?;
        }
        if !self.rekeys.rows.is_empty() {
            writeln!(f, "{}", self.rekeys.table())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_columns_come_in_order_and_rounds_become_medians() {
        let mut samples = Samples::default();
        for value in [1.0, 9.0, 2.0] {
            samples.add("b", "x", value);
        }
        samples.add("a", "y", 4.0);
        let table = samples.table().to_string();
        let cells: Vec<&str> = table.split('|').map(str::trim).filter(|cell| !cell.is_empty()).collect();
        assert_eq!(cells[..3], ["what", "x", "y"]);
        assert!(table.find("b").unwrap() < table.find("4.00").unwrap() && table.contains("2.00"), "{table}");
    }

    #[test]
    fn a_crowd_is_in_when_its_last_client_is() {
        let times = vec![Duration::from_secs(1), Duration::from_secs(3)];
        let arrivals = Arrivals { times, with_cookie: 0, clients: 2 };
        assert_eq!(arrivals.all_in(), Some(Duration::from_secs(3)));
        assert_eq!(arrivals.within(Duration::from_secs(2)), 1);
        assert_eq!(Arrivals { clients: 3, ..arrivals }.all_in(), None);
    }
}
