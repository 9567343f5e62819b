//! Handshakes that are never answered, sessions that die, and their revival.

use encrypt::{Identity, KEEPALIVE_TIMEOUT, REJECT_AFTER_TIME, REKEY_ATTEMPT_TIME, REKEY_TIMEOUT};

use crate::world::{A, B, Kind, World, kinds, on_every_backend, ping, seconds, serial};

on_every_backend! {
    the_first_packet_after_a_sleep_survives_the_handshake_that_was_under_way,
    an_unanswered_handshake_is_retried_then_given_up_with_what_waited,
    a_packet_right_after_a_handshake_was_given_up_waits_its_turn_and_is_not_lost,
    packets_that_go_on_coming_keep_the_handshake_going,
    at_the_end_of_a_session_no_packet_is_lost_but_those_under_way,
    a_packet_after_a_long_silence_starts_a_new_session_and_is_not_lost,
    a_peer_that_restarted_is_found_again,
    a_handshake_that_is_given_up_leaves_a_young_session_alone,
    data_without_an_answer_is_answered_by_a_passive_keepalive,
}

fn an_unanswered_handshake_is_retried_then_given_up_with_what_waited<I: Identity>() {
    let mut world: World<I> = World::pair();
    world.nodes[B].unplugged = true;
    world.send(A, &ping(A, B, 1));
    world.send(A, &ping(A, B, 2));
    world.drive(seconds(200));
    let tries = REKEY_ATTEMPT_TIME.as_secs() / REKEY_TIMEOUT.as_secs();
    assert_eq!(kinds(&world.wire), vec![Kind::Initiation; tries as usize]);
    assert_eq!(world.nodes[A].count("initiations_sent"), tries);
    assert_eq!(world.nodes[A].drops(), [("tx_handshake_expired", 2)]);
    assert_eq!(world.nodes[A].tunnel.poll_timeout(), None, "silence until there is something to send");

    world.nodes[B].unplugged = false;
    world.send(A, &ping(A, B, 3));
    world.settle();
    assert_eq!(world.nodes[B].delivered, [ping(A, B, 3)]);
}

/// No two initiations are less than 5 s apart (§6.1), and the last try may be more recent than that.
fn a_packet_right_after_a_handshake_was_given_up_waits_its_turn_and_is_not_lost<I: Identity>() {
    for moments in [0, 1, 3, 4] {
        let mut world: World<I> = World::pair();
        world.nodes[B].unplugged = true;
        world.send(A, &ping(A, B, 1));
        world.drive(REKEY_ATTEMPT_TIME + seconds(moments));
        assert_eq!(world.nodes[A].drops(), [("tx_handshake_expired", 1)]);
        world.nodes[B].unplugged = false;
        world.send(A, &ping(A, B, 2));
        world.drive(REKEY_TIMEOUT);
        assert_eq!(world.nodes[B].delivered, [ping(A, B, 2)], "{moments} s after");
    }
}

/// From both ends, and whoever initiated it: what is under way when the session ends is lost, and nothing else.
fn at_the_end_of_a_session_no_packet_is_lost_but_those_under_way<I: Identity>() {
    for (from, to) in [(A, B), (B, A)] {
        let mut world: World<I> = World::connected();
        let began = world.now;
        let under_way = world.intercept(from);
        assert!(under_way.is_empty());
        world.now = began + REJECT_AFTER_TIME - std::time::Duration::from_millis(1);
        world.send(from, &ping(from, to, 1));
        let late = world.intercept(from).remove(0);
        world.send(from, &ping(from, to, 2));
        let in_time = world.intercept(from).remove(0);
        assert!(world.arrive(to, &in_time.bytes, in_time.arrival()).is_some());
        world.now = began + REJECT_AFTER_TIME;
        assert_eq!(world.arrive(to, &late.bytes, late.arrival()), None, "it is too late");
        for serial in 3..6 {
            world.send(from, &ping(from, to, serial));
            world.send(to, &ping(to, from, serial));
        }
        world.drive(seconds(6));
        let serials = |node: usize| world.nodes[node].delivered.iter().map(|packet| serial(packet));
        assert!(serials(to).eq([2, 3, 4, 5]) && serials(from).eq([3, 4, 5]), "{from}");
        assert_eq!(world.nodes[to].drops(), [("rx_no_session", 1)]);
    }
}

fn packets_that_go_on_coming_keep_the_handshake_going<I: Identity>() {
    let mut world: World<I> = World::pair();
    world.nodes[B].unplugged = true;
    let all: Vec<_> = (0..10).map(|serial| ping(A, B, serial)).collect();
    for packet in &all {
        world.send(A, packet);
        world.drive(REKEY_ATTEMPT_TIME - seconds(10));
    }
    assert_eq!(world.nodes[A].drops(), []);
    world.nodes[B].unplugged = false;
    world.drive(seconds(6));
    assert_eq!(world.nodes[B].delivered, all);
}

fn a_packet_after_a_long_silence_starts_a_new_session_and_is_not_lost<I: Identity>() {
    let mut world: World<I> = World::connected();
    for (serial, silence) in [(1, 179), (2, 181), (3, 600), (4, 100_000)] {
        world.drive(seconds(silence));
        world.send(A, &ping(A, B, serial));
        world.settle();
        assert_eq!(world.nodes[B].delivered.last(), Some(&ping(A, B, serial)), "after {silence} s");
    }
    assert_eq!(world.nodes[A].drops(), []);
    assert_eq!(world.nodes[B].drops(), []);
}

fn a_peer_that_restarted_is_found_again<I: Identity>() {
    let mut world: World<I> = World::connected();
    let mut restarted: World<I> = World::pair();
    world.nodes[B] = restarted.nodes.remove(B);
    world.send(A, &ping(A, B, 1));
    world.drive(seconds(16)); // silence after data: KEEPALIVE_TIMEOUT + REKEY_TIMEOUT
    assert_eq!(world.nodes[B].drops(), [("rx_no_session", 1)]);
    world.send(A, &ping(A, B, 2));
    world.settle();
    assert_eq!(world.nodes[B].delivered, [ping(A, B, 2)]);
}

fn data_without_an_answer_is_answered_by_a_passive_keepalive<I: Identity>() {
    let mut world: World<I> = World::connected();
    world.send(A, &ping(A, B, 1));
    world.drive(seconds(60));
    assert_eq!(kinds(&world.wire), [Kind::Data, Kind::Keepalive], "and the keepalive by nothing");
}

fn the_first_packet_after_a_sleep_survives_the_handshake_that_was_under_way<I: Identity>() {
    let mut world: World<I> = World::pair();
    world.nodes[B].unplugged = true;
    world.send(A, &ping(A, B, 1));
    world.drive(seconds(7));
    world.nodes[B].unplugged = false;
    world.now += seconds(1000); // asleep: no timer ran
    world.send(A, &ping(A, B, 2));
    world.drive(seconds(1));
    assert_eq!(world.nodes[B].delivered, [ping(A, B, 2)]);
    assert_eq!(world.nodes[A].drops(), [("tx_handshake_expired", 1)], "the packet from before");
}

fn a_handshake_that_is_given_up_leaves_a_young_session_alone<I: Identity>() {
    let mut world: World<I> = World::connected();
    let began = world.now;
    world.nodes[B].unplugged = true;
    world.send(A, &ping(A, B, 1));
    world.drive(KEEPALIVE_TIMEOUT + REKEY_TIMEOUT + REKEY_ATTEMPT_TIME + seconds(1));
    let tries = REKEY_ATTEMPT_TIME.as_secs() / REKEY_TIMEOUT.as_secs();
    assert_eq!(world.nodes[A].count("initiations_sent"), 1 + tries);
    world.drive(seconds(10));
    assert_eq!(world.nodes[A].count("initiations_sent"), 1 + tries, "it was given up");

    world.nodes[B].unplugged = false;
    world.wire.clear();
    for (from, to) in [(A, B), (B, A)] {
        world.send(from, &ping(from, to, 2));
        world.settle();
        assert_eq!(world.nodes[to].delivered.last(), Some(&ping(from, to, 2)));
    }
    assert_eq!(kinds(&world.wire), [Kind::Data, Kind::Data], "the session of the time before");

    world.drive(began + REJECT_AFTER_TIME - world.now);
    world.send(A, &ping(A, B, 3));
    world.settle();
    assert_eq!(world.nodes[B].delivered.last(), Some(&ping(A, B, 3)));
    assert!(kinds(&world.wire).contains(&Kind::Initiation), "it ended when it was too old");
    assert_eq!(world.nodes[A].drops(), []);
}
