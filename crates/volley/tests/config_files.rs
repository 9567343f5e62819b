//! Our parser of configuration files against `wg-quick strip` and `wg setconf`, on a corpus.

mod common;

use std::{fs, path::Path};

use common::lab;
use volley::{
    config::{Config, strip},
    uapi::client,
};

/// Every file of a kind: name, path and text.
fn corpus(kind: &str) -> Vec<(String, String)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(kind);
    let mut files: Vec<_> = fs::read_dir(&directory)
        .expect("the corpus")
        .map(|entry| entry.expect("an entry").path())
        .map(|path| (path.display().to_string(), fs::read_to_string(&path).expect("text")))
        .collect();
    files.sort();
    assert!(files.len() > 10, "the corpus is there");
    files
}

#[test]
fn stripping_a_file_gives_what_wg_quick_strip_gives() {
    lab(&["wg-quick", "bash"], |lab| {
        for kind in ["good", "bad"] {
            for (path, text) in corpus(kind) {
                lab.file("wg0.conf", &text);
                let theirs = lab.run("wg-quick strip ./wg0.conf");
                assert_eq!(*strip(&text), theirs, "{path}");
                assert_eq!(lab.run("volley strip ./wg0.conf"), theirs, "{path}");
            }
        }
    });
}

#[test]
fn a_good_file_means_to_us_what_it_means_to_wg() {
    lab(&["wg-quick", "wg"], |lab| {
        let ours = lab.daemon("ours", &[]);
        let _theirs = lab.daemon("theirs", &[]);
        for (path, text) in corpus("good") {
            lab.file("wg0.conf", &text);
            lab.run("wg-quick strip ./wg0.conf > stripped; wg setconf theirs stripped");
            let theirs = lab.run("wg showconf theirs");
            lab.run("wg set theirs listen-port 0"); // two daemons cannot have one port
            let config: Config = text.parse().unwrap_or_else(|error| panic!("{path}: {error}"));
            let resolve =
                |endpoint: &volley::config::Endpoint| Ok(endpoint.to_string().parse().expect("an address"));
            let update = config.update(resolve).expect("addresses only");
            client::set(&ours.socket(), &update).unwrap_or_else(|error| panic!("{path}: {error}"));
            let ours = lab.run("wg showconf ours");
            lab.run("wg set ours listen-port 0");
            let random_port = config.interface.listen_port.unwrap_or(0) == 0;
            let compared = |text: &str| {
                let lines = text.lines().filter(|line| !(random_port && line.starts_with("ListenPort")));
                lines.map(str::to_owned).collect::<Vec<_>>()
            };
            assert_eq!(compared(&ours), compared(&theirs), "{path}");
        }
    });
}

#[test]
fn a_file_that_wg_refuses_is_refused_by_us() {
    lab(&["wg-quick", "wg"], |lab| {
        let _daemon = lab.daemon("wg0", &[]);
        for (path, text) in corpus("bad") {
            lab.file("wg0.conf", &text);
            let theirs = lab.sh("wg-quick strip ./wg0.conf > stripped; wg setconf wg0 stripped");
            assert!(!theirs.status.success(), "{path}: wg takes it");
            let error = text.parse::<Config>().expect_err(&path);
            assert!((1..=text.lines().count()).contains(&error.line), "{path}: {error}");
        }
    });
}
