//! Configuration files that nobody meant to write: seeded mutants of the corpus, against our parser alone; a sample of
//! them, and every scrap at either edge of every value, against `wg-quick strip` and `wg setconf`.

mod common;

use std::{fmt::Write, fs, net::SocketAddr, path::Path};

use common::{Lab, keys, lab};
use volley::{
    config::{Config, Endpoint, Error, strip},
    uapi,
};

/// Always the same mutants: another seed is another test.
const SEED: u64 = 51_820;

/// Files for our parser alone; some seconds in a debug build.
const MUTANTS: usize = 20_000;

/// Files for the real tools, each of which is three processes.
const COMPARED: usize = 150;

/// What a typing hand, another editor or another system leaves in a file. No NUL: bash drops it.
const SCRAPS: [&str; 22] = [
    "#", "=", ",", "/", ":", "[", "]", "+", "-", "0x", " ", "\t", "\r", "\n", "\r\n", "\x0b", "é", "\u{a0}",
    "\u{feff}", "\u{2028}", "１", "off",
];

const NUMBERS: [&str; 10] =
    ["0", "00", "33", "129", "65535", "65536", "4294967295", "4294967296", "18446744073709551616", "-1"];

/// SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn of<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len())]
    }
}

fn corpus() -> Vec<String> {
    let directories =
        ["good", "bad"].map(|kind| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(kind));
    let entries = directories.iter().flat_map(|directory| fs::read_dir(directory).expect("the corpus"));
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read_to_string(path).expect("text")).collect()
}

fn mutants() -> impl Iterator<Item = String> {
    let corpus = corpus();
    let mut random = Random(SEED);
    std::iter::repeat_with(move || {
        let mut text = corpus[random.below(corpus.len())].clone();
        for _ in 0..=random.below(3) {
            text = mutant(&text, &corpus, &mut random);
        }
        text
    })
}

fn mutant(text: &str, corpus: &[String], random: &mut Random) -> String {
    let mut lines: Vec<_> = text.split('\n').collect();
    let (one, other) = (random.below(lines.len()), random.below(lines.len()));
    match random.below(8) {
        0 => drop(lines.remove(one)),
        1 => lines.insert(other, lines[one]),
        2 => lines.swap(one, other),
        3 => {
            let donor: Vec<_> = corpus[random.below(corpus.len())].split('\n').collect();
            lines.insert(one, random.of(&donor));
        }
        4 => return text.replace('\n', "\r\n"),
        5 => return with_number(text, random),
        _ => return with_scrap(text, random),
    }
    lines.join("\n")
}

/// Another number in the place of one.
fn with_number(text: &str, random: &mut Random) -> String {
    let is_digit = |index: usize| text.as_bytes().get(index).is_some_and(u8::is_ascii_digit);
    let starts: Vec<_> =
        (0..text.len()).filter(|at| is_digit(*at) && (*at == 0 || !is_digit(at - 1))).collect();
    if starts.is_empty() {
        return text.to_owned();
    }
    let start = starts[random.below(starts.len())];
    let end = (start..).find(|at| !is_digit(*at)).expect("the text ends");
    format!("{}{}{}", &text[..start], random.of(&NUMBERS), &text[end..])
}

/// A scrap put in, or in the place of a character; most of them where one thing ends and another begins.
fn with_scrap(text: &str, random: &mut Random) -> String {
    let mut characters: Vec<_> = text.chars().collect();
    let is_inside =
        |at: usize| at > 0 && characters[at].is_alphanumeric() && characters[at - 1].is_alphanumeric();
    let seams: Vec<_> = (0..characters.len()).filter(|at| !is_inside(*at)).collect();
    let anywhere = seams.is_empty() || random.below(4) == 0;
    let at = if anywhere { random.below(characters.len() + 1) } else { seams[random.below(seams.len())] };
    let replaced = random.below(2).min(characters.len() - at);
    characters.splice(at..at + replaced, random.of(&SCRAPS).chars());
    characters.into_iter().collect()
}

/// A file with most keys, one value of which has a scrap at an edge or is a number; and every one of these.
fn edges() -> impl Iterator<Item = String> {
    const KEY: &str = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";
    let lines = [
        ("[Interface]\nPrivateKey", KEY),
        ("ListenPort", "5001"),
        ("FwMark", "0x1f"),
        ("Address", "10.0.0.1/24"),
        ("MTU", "1400"),
        ("SaveConfig", "true"),
        ("[Peer]\nPublicKey", "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk="),
        ("PresharedKey", KEY),
        ("AllowedIPs", "10.1.0.0/16"),
        ("Endpoint", "192.0.2.1:5001"),
        ("PersistentKeepalive", "25"),
    ];
    let scraps = SCRAPS.iter().flat_map(|scrap| [[*scrap, "", ""], ["", "", *scrap]]);
    let changes: Vec<_> = scraps.chain(NUMBERS.map(|number| ["", number, ""])).collect();
    (0..lines.len()).flat_map(move |changed| {
        let file = move |[before, instead, after]: [&str; 3]| {
            let line = |(number, (key, value)): (usize, &(&str, &str))| match (number == changed, instead) {
                (false, _) => format!("{key} = {value}\n"),
                (true, "") => format!("{key} = {before}{value}{after}\n"),
                (true, _) => format!("{key} = {instead}\n"),
            };
            lines.iter().enumerate().map(line).collect::<String>()
        };
        changes.clone().into_iter().map(file)
    })
}

/// All that a file means: to the daemon, and to the system around it.
fn meaning(config: &Config) -> String {
    // Not resolved: whatever is no address gets one that stands for it.
    let address = |endpoint: &Endpoint| {
        Ok(address(endpoint).unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], endpoint.port))))
    };
    let update = config.update(address).expect("nothing is looked up");
    let mut meaning = uapi::print_set(&update).to_string();
    let interface = &config.interface;
    let system = (&interface.addresses, interface.mtu, &interface.table, &interface.hooks, interface.save);
    let names: Vec<_> = config.peers.iter().map(|peer| &peer.endpoint).collect();
    write!(meaning, "{system:?} {:?} {:?} {names:?}", interface.dns, interface.dns_search).expect("a string");
    meaning
}

fn address(endpoint: &Endpoint) -> Option<SocketAddr> {
    endpoint.to_string().parse().ok()
}

#[test]
fn mutants_are_understood_or_refused_at_a_line_of_theirs() {
    let mut understood = 0;
    for text in mutants().take(MUTANTS) {
        let _ = strip(&text);
        match text.parse::<Config>() {
            Ok(config) => {
                understood += 1;
                let written = config.to_string();
                let again: Config =
                    written.parse().unwrap_or_else(|error| panic!("{error}: {written}\nof {text:?}"));
                assert_eq!(meaning(&again), meaning(&config), "{text:?}");
                assert_eq!(again.to_string(), written, "{text:?}");
            }
            Err(error) => assert!((1..=text.split('\n').count()).contains(&error.line), "{error}: {text:?}"),
        }
    }
    assert!(
        (MUTANTS / 10..MUTANTS * 9 / 10).contains(&understood),
        "{understood} of {MUTANTS} are understood"
    );
}

/// What the tools take and we refuse: how we begin to say so, why, and an example.
const STRICTER: [(&str, &str, &str); 4] = [
    (
        "Address: ",
        "wg-quick leaves addresses to `ip address add`, when it is up",
        "[Interface]\nAddress = 10.0.0.1/33",
    ),
    ("MTU: ", "wg-quick leaves it to `ip link set mtu`, when it is up", "[Interface]\nMTU = 12800x"),
    (
        "ListenPort: ",
        "getaddrinfo takes it: numbers wrap, and services have names",
        "[Interface]\nListenPort = 65536",
    ),
    ("Endpoint: ", "getaddrinfo takes its port", "[Peer]\nPublicKey = KEY\nEndpoint = 192.0.2.1:65537"),
];

/// What the tools refuse and we take: some words of what they say, why, and an example.
const LAXER: [(&str, &str, &str); 1] = [(
    "name resolution",
    "wg looks up every endpoint; we look up the last of each peer, when all lines are read",
    "[Peer]\nPublicKey = KEY\nEndpoint = nowhere.invalid:1\nEndpoint = 192.0.2.1:1",
)];

/// One file, as the real tools saw it.
struct Compared {
    text: String,
    ours: Result<Config, Error>,
    /// What `wg-quick strip` printed, and what `wg showconf` printed then.
    stripped: String,
    theirs: Option<String>,
    /// What `wg showconf` printed after our own rendering of the file.
    rendered: Option<String>,
    said: String,
}

impl Compared {
    /// The entry of a list that explains a difference; `None` if there is no difference.
    fn difference(&self) -> Option<&'static str> {
        let entry = match (&self.ours, &self.theirs) {
            (Ok(_), Some(_)) | (Err(_), None) => return None,
            (Err(error), Some(_)) => STRICTER.iter().find(|(words, ..)| error.reason.starts_with(words)),
            (Ok(_), None) => LAXER.iter().find(|(words, ..)| self.said.contains(words)),
        };
        let (words, ..) =
            entry.unwrap_or_else(|| panic!("{:?}, {:?}: {:?}", self.ours, self.said, self.text));
        Some(words)
    }

    fn assert_explained(&self) {
        let difference = self.difference();
        if self.theirs.is_some() {
            assert_eq!(*strip(&self.text), self.stripped, "{:?}", self.text);
        }
        if let (Ok(config), None) = (&self.ours, difference) {
            // A port that the file leaves open is another each time.
            let open = config.interface.listen_port.unwrap_or(0) == 0;
            let settings = |shown: &Option<String>| {
                let shown = shown.clone().expect("taken");
                let kept = shown.lines().filter(|line| !(open && line.starts_with("ListenPort")));
                kept.map(str::to_owned).collect::<Vec<_>>()
            };
            assert_eq!(settings(&self.rendered), settings(&self.theirs), "{:?}", self.text);
        }
    }
}

/// Gives files to `wg-quick strip` and `wg setconf`.
fn compare(lab: &Lab, texts: impl Iterator<Item = String>) -> Vec<Compared> {
    let of = |number: usize, name: &str| fs::read_to_string(lab.dir.join(number.to_string()).join(name));
    let all: Vec<_> = texts.map(|text| (text.parse::<Config>(), text)).collect();
    for (number, (ours, text)) in all.iter().enumerate() {
        fs::create_dir(lab.dir.join(number.to_string())).expect("a directory");
        lab.file(&format!("{number}/wg0.conf"), text);
        if let Ok(config) = ours {
            lab.file(&format!("{number}/ours.conf"), &strip(&config.to_string()));
        }
    }
    lab.run(COMPARE);
    let seen = all.into_iter().enumerate().map(|(number, (ours, text))| Compared {
        text,
        ours,
        stripped: of(number, "stripped").expect("it ran"),
        theirs: of(number, "theirs").ok(),
        rendered: of(number, "rendered").ok(),
        said: of(number, "said").expect("it ran"),
    });
    seen.collect()
}

/// A name that cannot be resolved is not tried again.
const COMPARE: &str = "
    export WG_ENDPOINT_RESOLUTION_RETRIES=0
    show() { wg setconf wg0 $1 2>> said && wg showconf wg0 > $2; }
    for file in [0-9]*; do
        cd $file
        wg-quick strip ./wg0.conf > stripped 2> said && show stripped theirs
        [ ! -e ours.conf ] || show ours.conf rendered
        cd ..
    done";

#[test]
fn the_tools_agree_about_mutants_but_for_what_is_listed() {
    lab(&["wg-quick", "wg", "bash"], |lab| {
        let _daemon = lab.daemon("wg0", &["--log-level", "error"]);
        for seen in compare(lab, mutants().filter(|text| needs_no_resolver(text)).take(COMPARED)) {
            seen.assert_explained();
        }
    });
}

#[test]
fn the_tools_agree_about_the_edges_of_values_but_for_what_is_listed() {
    lab(&["wg-quick", "wg", "bash"], |lab| {
        let _daemon = lab.daemon("wg0", &["--log-level", "error"]);
        for seen in compare(lab, edges().filter(|text| needs_no_resolver(text))) {
            seen.assert_explained();
        }
    });
}

/// Names would be looked up with whatever the machine has for that.
fn needs_no_resolver(text: &str) -> bool {
    let Ok(config) = text.parse::<Config>() else { return true };
    config.peers.iter().filter_map(|peer| peer.endpoint.as_ref()).all(|to| address(to).is_some())
}

#[test]
fn each_listed_difference_is_one() {
    lab(&["wg-quick", "wg", "bash"], |lab| {
        let _daemon = lab.daemon("wg0", &["--log-level", "error"]);
        let listed: Vec<_> = STRICTER.iter().chain(&LAXER).collect();
        let key = keys(lab).1;
        let examples = listed.iter().map(|(_, _, example)| example.replace("KEY", &key));
        for ((words, why, _), seen) in listed.iter().zip(compare(lab, examples)) {
            assert_eq!(seen.difference(), Some(*words), "{why}");
        }
    });
}
