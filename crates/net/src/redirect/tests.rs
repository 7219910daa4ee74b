use super::*;
use expect_test::expect;

fn ports(only: &[&str], except: &[&str]) -> Ports {
    let all = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    Ports { only: all(only), except: all(except) }
}

fn plain() -> Rules {
    Rules {
        outbound_port: 15001,
        inbound_port: 15006,
        dns_port: None,
        sidecar: vec![Owner::User(1337)],
        by: Inbound::Redirect,
        inbound: Ports::default(),
        outbound: Ports::default(),
        only_to: Vec::new(),
        except_to: Vec::new(),
    }
}

fn everything() -> Rules {
    let networks = |all: &[&str]| all.iter().map(|text| text.parse().unwrap()).collect();
    Rules {
        dns_port: Some(15053),
        sidecar: vec![Owner::User(1337), Owner::Group(1337), Owner::Mark(0x539)],
        inbound: ports(&["80", "8000-8010"], &["15020", "22"]),
        outbound: ports(&[], &["25", "443", "440-450"]),
        only_to: networks(&["10.0.0.0/8", "10.1.0.0/16", "fd00::1/8"]),
        except_to: networks(&["10.9.9.9", "fd00::9"]),
        ..plain()
    }
}

#[test]
fn nft_without_wishes() {
    expect![[r#"
        table inet fusewire {
        }
        delete table inet fusewire
        table inet fusewire {
            chain inbound {
                type nat hook prerouting priority -100; policy accept;
                meta l4proto != tcp return
                iifname "lo" return
                ip daddr 127.0.0.0/8 return
                fib daddr type != local return
                meta l4proto tcp redirect to :15006
            }
            chain outbound {
                type nat hook output priority -100; policy accept;
                meta l4proto != tcp return
                meta skuid 1337 return
                oifname "lo" return
                meta l4proto tcp redirect to :15001
            }
        }
    "#]]
    .assert_eq(&nft_up(&plain()));
}

#[test]
fn nft_with_every_wish() {
    expect![[r#"
        table inet fusewire {
        }
        delete table inet fusewire
        table inet fusewire {
            chain inbound {
                type nat hook prerouting priority -100; policy accept;
                meta l4proto != tcp return
                iifname "lo" return
                ip daddr 127.0.0.0/8 return
                fib daddr type != local return
                tcp dport { 22, 15020 } return
                tcp dport != { 80, 8000-8010 } return
                meta l4proto tcp redirect to :15006
            }
            chain outbound {
                type nat hook output priority -100; policy accept;
                meta skuid 1337 return
                meta skgid 1337 return
                meta mark 0x539 return
                meta l4proto { tcp, udp } th dport 53 redirect to :15053
                meta l4proto != tcp return
                ip daddr 240.0.0.0/8 meta l4proto tcp redirect to :15001
                oifname "lo" return
                ip daddr { 10.9.9.9/32 } return
                ip6 daddr { fd00::9/128 } return
                ip daddr != { 10.0.0.0/8 } return
                ip6 daddr != { fd00::/8 } return
                tcp dport { 25, 440-450 } return
                meta l4proto tcp redirect to :15001
            }
        }
    "#]]
    .assert_eq(&nft_up(&everything()));
}

#[test]
fn nft_of_one_family_alone_leaves_the_other() {
    let rules = Rules { only_to: vec!["10.0.0.0/8".parse().unwrap()], ..plain() };
    assert!(nft_up(&rules).contains("ip daddr != { 10.0.0.0/8 } return\n        meta nfproto ipv6 return\n"));
}

fn tproxy() -> Rules {
    Rules { by: Inbound::Tproxy, inbound: ports(&["80", "8000-8010"], &["22"]), ..plain() }
}

#[test]
fn nft_with_tproxy() {
    expect![[r#"
        table inet fusewire {
        }
        delete table inet fusewire
        table inet fusewire {
            chain inbound {
                type filter hook prerouting priority -150; policy accept;
                meta l4proto != tcp return
                iifname "lo" return
                ip daddr 127.0.0.0/8 return
                fib daddr type != local return
                tcp dport { 22 } return
                tcp dport != { 80, 8000-8010 } return
                tcp flags & (fin | syn | rst | ack) == syn ct mark set 0xf05f
                ct mark 0xf05f meta l4proto tcp tproxy to :15006 accept
                ct mark 0xf05f drop
            }
            chain answers {
                type route hook output priority -150; policy accept;
                meta l4proto != tcp return
                ct direction original meta mark 0xf05e ct mark set 0xf05e
                ct direction reply ct mark 0xf05e meta mark set 0xf05e
            }
            chain outbound {
                type nat hook output priority -100; policy accept;
                meta l4proto != tcp return
                meta skuid 1337 return
                oifname "lo" return
                meta l4proto tcp redirect to :15001
            }
        }
    "#]]
    .assert_eq(&nft_up(&tproxy()));
}

#[test]
fn iptables_with_tproxy() {
    expect![[r#"
        *nat
        :FUSEWIRE_OUTBOUND - [0:0]
        :FUSEWIRE_OUTBOUND_PORTS - [0:0]
        :FUSEWIRE_DNS - [0:0]
        -A FUSEWIRE_OUTBOUND -m owner --uid-owner 1337 -j RETURN
        -A FUSEWIRE_OUTBOUND -o lo -j RETURN
        -A FUSEWIRE_OUTBOUND -j FUSEWIRE_OUTBOUND_PORTS
        -A FUSEWIRE_OUTBOUND_PORTS -p tcp -j REDIRECT --to-ports 15001
        -A OUTPUT -p tcp -j FUSEWIRE_OUTBOUND
        COMMIT
        *mangle
        :FUSEWIRE_TPROXY - [0:0]
        :FUSEWIRE_TPROXY_PORTS - [0:0]
        :FUSEWIRE_TAKEN - [0:0]
        :FUSEWIRE_ANSWERS - [0:0]
        -A FUSEWIRE_TPROXY -i lo -j RETURN
        -A FUSEWIRE_TPROXY -d 127.0.0.0/8 -j RETURN
        -A FUSEWIRE_TPROXY -m addrtype ! --dst-type LOCAL -j RETURN
        -A FUSEWIRE_TPROXY -p tcp --dport 22 -j RETURN
        -A FUSEWIRE_TPROXY -j FUSEWIRE_TPROXY_PORTS
        -A FUSEWIRE_TPROXY_PORTS -p tcp --dport 80 -j FUSEWIRE_TAKEN
        -A FUSEWIRE_TPROXY_PORTS -p tcp --dport 8000:8010 -j FUSEWIRE_TAKEN
        -A FUSEWIRE_TAKEN -p tcp --syn -j CONNMARK --set-mark 0xf05f
        -A FUSEWIRE_TAKEN -p tcp -m connmark --mark 0xf05f -j TPROXY --on-port 15006
        -A FUSEWIRE_ANSWERS -m mark --mark 0xf05e -m conntrack --ctdir ORIGINAL -j CONNMARK --set-mark 0xf05e
        -A FUSEWIRE_ANSWERS -m connmark --mark 0xf05e -m conntrack --ctdir REPLY -j MARK --set-mark 0xf05e
        -A PREROUTING -p tcp -j FUSEWIRE_TPROXY
        -A OUTPUT -p tcp -j FUSEWIRE_ANSWERS
        COMMIT
    "#]]
    .assert_eq(&iptables_up(&tproxy(), Family::V4, &Jumps::default()));
}

/// From one form to the other and back, nothing of the first is left.
#[test]
fn iptables_in_the_other_form_takes_out_the_chains_of_the_first() {
    let to_tproxy = iptables_up(&tproxy(), Family::V4, &Jumps::of(SAVED));
    for gone in ["-D PREROUTING -p tcp -j FUSEWIRE_INBOUND", "-X FUSEWIRE_INBOUND", "-X FUSEWIRE_INBOUND_PORTS"] {
        assert!(to_tproxy.lines().any(|line| line == gone), "{gone} is not in\n{to_tproxy}");
    }
    assert!(!to_tproxy.contains("-A FUSEWIRE_INBOUND"), "{to_tproxy}");
    let there = Jumps::of(&iptables_up(&tproxy(), Family::V4, &Jumps::default()));
    assert!(there.state() == State::Whole);
    expect![[r#"
        *nat
        -D OUTPUT -p tcp -j FUSEWIRE_OUTBOUND
        -F FUSEWIRE_OUTBOUND
        -F FUSEWIRE_OUTBOUND_PORTS
        -F FUSEWIRE_DNS
        -X FUSEWIRE_OUTBOUND
        -X FUSEWIRE_OUTBOUND_PORTS
        -X FUSEWIRE_DNS
        COMMIT
        *mangle
        -D PREROUTING -p tcp -j FUSEWIRE_TPROXY
        -D OUTPUT -p tcp -j FUSEWIRE_ANSWERS
        -F FUSEWIRE_TPROXY
        -F FUSEWIRE_TPROXY_PORTS
        -F FUSEWIRE_TAKEN
        -F FUSEWIRE_ANSWERS
        -X FUSEWIRE_TPROXY
        -X FUSEWIRE_TPROXY_PORTS
        -X FUSEWIRE_TAKEN
        -X FUSEWIRE_ANSWERS
        COMMIT
    "#]]
    .assert_eq(&iptables_down(&there).unwrap());
    let back = iptables_up(&plain(), Family::V4, &there);
    let (nat, mangle) = back.split_once("COMMIT\n").unwrap();
    assert!(nat.contains("-A PREROUTING -p tcp -j FUSEWIRE_INBOUND\n"), "{nat}");
    assert!(mangle.starts_with("*mangle\n-D PREROUTING") && !mangle.contains("-A "), "{mangle}");
}

#[test]
fn iptables_without_wishes() {
    expect![[r#"
        *nat
        :FUSEWIRE_INBOUND - [0:0]
        :FUSEWIRE_OUTBOUND - [0:0]
        :FUSEWIRE_OUTBOUND_PORTS - [0:0]
        :FUSEWIRE_INBOUND_PORTS - [0:0]
        :FUSEWIRE_DNS - [0:0]
        -A FUSEWIRE_INBOUND -i lo -j RETURN
        -A FUSEWIRE_INBOUND -d 127.0.0.0/8 -j RETURN
        -A FUSEWIRE_INBOUND -m addrtype ! --dst-type LOCAL -j RETURN
        -A FUSEWIRE_INBOUND -j FUSEWIRE_INBOUND_PORTS
        -A FUSEWIRE_INBOUND_PORTS -p tcp -j REDIRECT --to-ports 15006
        -A FUSEWIRE_OUTBOUND -m owner --uid-owner 1337 -j RETURN
        -A FUSEWIRE_OUTBOUND -o lo -j RETURN
        -A FUSEWIRE_OUTBOUND -j FUSEWIRE_OUTBOUND_PORTS
        -A FUSEWIRE_OUTBOUND_PORTS -p tcp -j REDIRECT --to-ports 15001
        -A PREROUTING -p tcp -j FUSEWIRE_INBOUND
        -A OUTPUT -p tcp -j FUSEWIRE_OUTBOUND
        COMMIT
    "#]]
    .assert_eq(&iptables_up(&plain(), Family::V4, &Jumps::default()));
}

#[test]
fn ip6tables_with_every_wish() {
    expect![[r#"
        *nat
        :FUSEWIRE_INBOUND - [0:0]
        :FUSEWIRE_OUTBOUND - [0:0]
        :FUSEWIRE_OUTBOUND_PORTS - [0:0]
        :FUSEWIRE_INBOUND_PORTS - [0:0]
        :FUSEWIRE_DNS - [0:0]
        -A FUSEWIRE_INBOUND -i lo -j RETURN
        -A FUSEWIRE_INBOUND -m addrtype ! --dst-type LOCAL -j RETURN
        -A FUSEWIRE_INBOUND -p tcp --dport 22 -j RETURN
        -A FUSEWIRE_INBOUND -p tcp --dport 15020 -j RETURN
        -A FUSEWIRE_INBOUND -j FUSEWIRE_INBOUND_PORTS
        -A FUSEWIRE_INBOUND_PORTS -p tcp --dport 80 -j REDIRECT --to-ports 15006
        -A FUSEWIRE_INBOUND_PORTS -p tcp --dport 8000:8010 -j REDIRECT --to-ports 15006
        -A FUSEWIRE_OUTBOUND -m owner --uid-owner 1337 -j RETURN
        -A FUSEWIRE_OUTBOUND -m owner --gid-owner 1337 -j RETURN
        -A FUSEWIRE_OUTBOUND -m mark --mark 0x539 -j RETURN
        -A FUSEWIRE_OUTBOUND -p tcp --dport 53 -j REDIRECT --to-ports 15053
        -A FUSEWIRE_DNS -m owner --uid-owner 1337 -j RETURN
        -A FUSEWIRE_DNS -m owner --gid-owner 1337 -j RETURN
        -A FUSEWIRE_DNS -m mark --mark 0x539 -j RETURN
        -A FUSEWIRE_DNS -p udp -j REDIRECT --to-ports 15053
        -A FUSEWIRE_OUTBOUND -o lo -j RETURN
        -A FUSEWIRE_OUTBOUND -d fd00::9/128 -j RETURN
        -A FUSEWIRE_OUTBOUND -p tcp --dport 25 -j RETURN
        -A FUSEWIRE_OUTBOUND -p tcp --dport 440:450 -j RETURN
        -A FUSEWIRE_OUTBOUND -d fd00::/8 -j FUSEWIRE_OUTBOUND_PORTS
        -A FUSEWIRE_OUTBOUND_PORTS -p tcp -j REDIRECT --to-ports 15001
        -A PREROUTING -p tcp -j FUSEWIRE_INBOUND
        -A OUTPUT -p tcp -j FUSEWIRE_OUTBOUND
        -A OUTPUT -p udp -m udp --dport 53 -j FUSEWIRE_DNS
        COMMIT
    "#]]
    .assert_eq(&iptables_up(&everything(), Family::V6, &Jumps::default()));
}

/// As `iptables-save` prints it, with rules of others around ours.
const SAVED: &str = "*nat
:PREROUTING ACCEPT [1:60]
:OUTPUT ACCEPT [0:0]
:FUSEWIRE_INBOUND - [0:0]
:FUSEWIRE_INBOUND_PORTS - [0:0]
:FUSEWIRE_OUTBOUND - [0:0]
:FUSEWIRE_OUTBOUND_PORTS - [0:0]
:FUSEWIRE_INBOUNDER - [0:0]
-A PREROUTING -j OTHERS
-A PREROUTING -p tcp -j FUSEWIRE_INBOUND
-A OUTPUT -p tcp -j FUSEWIRE_OUTBOUND
-A FUSEWIRE_INBOUND -i lo -j RETURN
COMMIT
";

#[test]
fn iptables_again_replaces_its_own_jumps() {
    let again = iptables_up(&plain(), Family::V4, &Jumps::of(SAVED));
    let jumps: Vec<&str> =
        again.lines().filter(|line| line.contains("PREROUTING") || line.contains("OUTPUT ")).collect();
    assert_eq!(
        jumps,
        [
            "-D PREROUTING -p tcp -j FUSEWIRE_INBOUND",
            "-D OUTPUT -p tcp -j FUSEWIRE_OUTBOUND",
            "-A PREROUTING -p tcp -j FUSEWIRE_INBOUND",
            "-A OUTPUT -p tcp -j FUSEWIRE_OUTBOUND",
        ]
    );
}

#[test]
fn iptables_down_takes_out_what_is_there_and_no_more() {
    expect![[r#"
        *nat
        -D PREROUTING -p tcp -j FUSEWIRE_INBOUND
        -D OUTPUT -p tcp -j FUSEWIRE_OUTBOUND
        -F FUSEWIRE_INBOUND
        -F FUSEWIRE_OUTBOUND
        -F FUSEWIRE_OUTBOUND_PORTS
        -F FUSEWIRE_INBOUND_PORTS
        -X FUSEWIRE_INBOUND
        -X FUSEWIRE_OUTBOUND
        -X FUSEWIRE_OUTBOUND_PORTS
        -X FUSEWIRE_INBOUND_PORTS
        COMMIT
    "#]]
    .assert_eq(&iptables_down(&Jumps::of(SAVED)).unwrap());
    assert_eq!(iptables_down(&Jumps::of("*nat\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n")), None);
    let half = Jumps::of("*nat\n:FUSEWIRE_INBOUND - [0:0]\nCOMMIT\n");
    assert_eq!(iptables_down(&half).unwrap(), "*nat\n-F FUSEWIRE_INBOUND\n-X FUSEWIRE_INBOUND\nCOMMIT\n");
}

/// What `up` puts in is whole; without any line of those that lead to the sidecar it is not.
#[test]
fn what_is_whole_leads_both_ways_to_the_sidecar() {
    let names = || Rules { dns_port: Some(15053), ..plain() };
    let one_family = || Rules { only_to: vec!["fd00::/8".parse().unwrap()], ..plain() };
    for rules in [plain(), everything(), tproxy(), names(), one_family()] {
        let whole = iptables_up(&rules, Family::V4, &Jumps::default());
        assert_eq!(Jumps::of(&whole).state(), State::Whole, "{whole}");
        let jumps = |line: &&str| line.starts_with("-A PREROUTING") || line.starts_with("-A OUTPUT");
        for gone in whole.lines().filter(jumps) {
            let left = whole.replace(&format!("{gone}\n"), "");
            assert_eq!(Jumps::of(&left).state(), State::Part, "without {gone}");
        }
        for chain in ["FUSEWIRE_OUTBOUND", "FUSEWIRE_OUTBOUND_PORTS"] {
            let emptied: Vec<&str> = whole.lines().filter(|line| !line.starts_with(&format!("-A {chain} "))).collect();
            assert_eq!(Jumps::of(&emptied.join("\n")).state(), State::Part, "{chain} is empty");
        }
        let unused: Vec<&str> = whole.lines().filter(|line| !jumps(line)).collect();
        assert_eq!(Jumps::of(&unused.join("\n")).state(), State::Unused);
        let whole = nft_up(&rules).replace("0xf05", "0x0000f05"); // as it is printed
        assert_eq!(nft_state(&whole), State::Whole, "{whole}");
        let ends =
            ["meta l4proto tcp redirect to :15001", "redirect to :15006", "tproxy to", "hook output", "prerouting"];
        for gone in ends.into_iter().filter(|end| whole.contains(end)) {
            let left: Vec<&str> = whole.lines().filter(|line| !line.contains(gone)).collect();
            assert_eq!(nft_state(&left.join("\n")), State::Part, "without {gone}");
        }
        // the rules for names are no way out for everything else
        let left = whole.replace("        meta l4proto tcp redirect to :15001\n", "");
        assert_eq!(nft_state(&left), State::Part, "{left}");
    }
    for table in
        ["table inet fusewire {\n}\n", "table inet fusewire {\n\tchain inbound {\n\t\ttype nat hook output;\n\t}\n}\n"]
    {
        assert_eq!(nft_state(table), State::Unused);
    }
}

/// Whatever became of it meanwhile.
#[test]
fn iptables_back_is_what_there_was_of_ours_and_nothing_else() {
    let (redirect, by_tproxy) = (plain(), tproxy());
    for rules in [&redirect, &by_tproxy] {
        let before = iptables_up(rules, Family::V4, &Jumps::default()).replace("*nat\n", "*nat\n-A OUTPUT -j OTHERS\n");
        for now in [SAVED.to_owned(), iptables_up(&by_tproxy, Family::V4, &Jumps::default()), String::new()] {
            let back = iptables_back(&before, &Jumps::of(&now)).unwrap();
            assert_eq!(Jumps::of(&back), Jumps::of(&before), "{back}");
            let rules = |text: &str| text.lines().filter(|line| line.starts_with("-A FUSEWIRE")).count();
            assert!(rules(&back) == rules(&before) && !back.contains("OTHERS"), "{back}");
        }
    }
    assert_eq!(iptables_back("", &Jumps::of(SAVED)), iptables_down(&Jumps::of(SAVED)));
    assert_eq!(iptables_back("*nat\nCOMMIT\n", &Jumps::default()), None);
}

/// Its calls to the application from a caller's address bear another mark.
#[test]
fn a_sidecar_that_is_known_by_its_mark_is_so_with_tproxy_too() {
    let by_mark = |by| Rules { by, sidecar: vec![Owner::Mark(0x539)], ..plain() };
    let left_alone = |rules: &Rules| {
        (
            nft_up(rules).matches("meta mark 0xf05e return").count(),
            iptables_up(rules, Family::V4, &Jumps::default()).matches("--mark 0xf05e -j RETURN").count(),
        )
    };
    assert_eq!(left_alone(&by_mark(Inbound::Tproxy)), (1, 1));
    assert_eq!(left_alone(&by_mark(Inbound::Redirect)), (0, 0));
    assert_eq!(left_alone(&tproxy()), (0, 0));
}

#[test]
fn what_is_no_port_or_network_is_refused() {
    for text in ["", "0", "65536", "9-8", "a", "1-", "-1", "1-2-3"] {
        assert!(text.parse::<PortRange>().is_err(), "{text}");
    }
    for text in ["", "10.0.0.0/33", "10.0.0/8", "fd00::/129", "a/8", "10.0.0.0/"] {
        assert!(text.parse::<Cidr>().is_err(), "{text}");
    }
    for (text, wanted) in
        [("10.1.2.3/8", "10.0.0.0/8"), ("::1", "::1/128"), ("0.0.0.0/0", "0.0.0.0/0"), ("::/0", "::/0")]
    {
        assert_eq!(text.parse::<Cidr>().unwrap().to_string(), wanted);
    }
}
