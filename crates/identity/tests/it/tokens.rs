//! Join tokens, from making to spending.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use fusewire_identity::{JoinToken, SpiffeId, TokenBook, TokenError};
use tempfile::{TempDir, tempdir};

use crate::world::*;

const HOUR: Duration = Duration::from_secs(3600);

struct Desk {
    dir: TempDir,
    hash: String,
}

impl Desk {
    fn new() -> Self {
        Self { dir: tempdir().unwrap(), hash: authority().root_hash().to_owned() }
    }

    fn open(&self) -> TokenBook {
        TokenBook::open(&self.dir.path().join("tokens.json"), &self.hash).unwrap()
    }
}

fn word(result: Result<(), TokenError>) -> &'static str {
    result.map_or_else(|error| error.word(), |()| "ok")
}

#[test]
fn a_token_tells_a_joiner_whom_to_believe_and_who_it_will_be() {
    let desk = Desk::new();
    let token = desk.open().create(&id("shop/web.v2"), 1, HOUR, now()).unwrap();
    let text = token.to_string();
    assert!(text.starts_with("fwj1."));
    let parsed = JoinToken::parse(&format!(" {text}\n")).unwrap();
    assert_eq!(parsed, token);
    assert_eq!(parsed.root_hash(), desk.hash);
    assert_eq!(parsed.id(), &id("shop/web.v2"));
}

#[test]
fn a_token_is_good_as_often_as_was_said() {
    let desk = Desk::new();
    let mut book = desk.open();
    let once = book.create(&id("shop/web"), 1, HOUR, now()).unwrap().to_string();
    let thrice = book.create(&id("shop/web"), 3, HOUR, now()).unwrap().to_string();
    let mut redeem = |text: &str| word(book.redeem(text, &id("shop/web"), now()));
    assert_eq!([redeem(&once), redeem(&once)], ["ok", "token-spent"]);
    assert_eq!([(); 4].map(|()| redeem(&thrice)), ["ok", "ok", "ok", "token-spent"]);
}

#[test]
fn a_spent_use_stays_spent_over_a_restart() {
    let desk = Desk::new();
    let text = desk.open().create(&id("shop/web"), 2, HOUR, now()).unwrap().to_string();
    let words = [(); 3].map(|()| word(desk.open().redeem(&text, &id("shop/web"), now())));
    assert_eq!(words, ["ok", "ok", "token-spent"]);
}

#[test]
fn a_refusal_spends_nothing() {
    let desk = Desk::new();
    let mut book = desk.open();
    let text = book.create(&id("shop/web"), 1, HOUR, now()).unwrap().to_string();
    assert_eq!(word(book.redeem(&text, &id("shop/admin"), now())), "token-wrong-identity");
    assert_eq!(word(book.redeem(&text, &id("shop/web"), at(NOW + 3600))), "token-expired");
    assert_eq!(word(book.redeem(&text, &id("shop/web"), at(NOW + 3599))), "ok");
}

#[test]
fn what_a_holder_rewrites_is_not_believed() {
    let desk = Desk::new();
    let mut book = desk.open();
    let text = book.create(&id("shop/web"), 1, HOUR, now()).unwrap().to_string();
    let promoted = text.replace("shop/web", "shop/admin");
    assert_eq!(word(book.redeem(&promoted, &id("shop/admin"), now())), "token-wrong-identity");
    assert_eq!(word(book.redeem(&promoted, &id("shop/web"), now())), "token-wrong-identity");
    let (rest, secret) = text.rsplit_once('.').unwrap();
    let guessed = format!(
        "{rest}.{}",
        secret.chars().rev().collect::<String>().replace(|c: char| !c.is_ascii_alphanumeric(), "A")
    );
    let outcome = word(book.redeem(&guessed, &id("shop/web"), now()));
    assert!(["token-unknown", "token-malformed"].contains(&outcome), "{outcome}");
    assert_eq!(word(desk_of_another(&text)), "token-unknown");
}

fn desk_of_another(text: &str) -> Result<(), TokenError> {
    Desk::new().open().redeem(text, &id("shop/web"), now())
}

#[test]
fn what_is_no_token_is_malformed() {
    let desk = Desk::new();
    let mut book = desk.open();
    let text = book.create(&id("shop/web"), 1, HOUR, now()).unwrap().to_string();
    let long = format!("fwj1.{}", "a.".repeat(4000));
    let mut cases = vec![String::new(), "fwj1.".into(), "fwj1....".into(), "fwj2.a.b.c".into(), long];
    cases.extend((0..text.len()).map(|at| text[..at].to_owned()));
    cases.push(text.replace("spiffe://", "http://"));
    cases.push(format!("{text}="));
    for case in cases {
        assert!(matches!(book.redeem(&case, &id("shop/web"), now()), Err(TokenError::Malformed)), "{case}");
        assert!(JoinToken::parse(&case).is_err());
    }
}

#[test]
fn ended_tokens_say_so_for_a_day_and_are_then_forgotten() {
    let desk = Desk::new();
    let mut book = desk.open();
    let text = book.create(&id("shop/web"), 1, HOUR, now()).unwrap().to_string();
    let prune = |book: &mut TokenBook, seconds| book.create(&id("shop/other"), 1, HOUR, at(seconds)).map(drop).unwrap();
    prune(&mut book, NOW + 3600 + DAY - 1);
    assert_eq!(word(book.redeem(&text, &id("shop/web"), at(NOW + 3600 + DAY - 1))), "token-expired");
    prune(&mut book, NOW + 3600 + DAY);
    assert_eq!(word(book.redeem(&text, &id("shop/web"), at(NOW + 3600 + DAY))), "token-unknown");
    assert_eq!(desk.open().list().len(), 2);
}

#[test]
fn tokens_are_listed_and_revoked_by_handle() {
    let desk = Desk::new();
    let mut book = desk.open();
    let token = book.create(&id("shop/web"), 5, HOUR, now()).unwrap();
    book.redeem(&token.to_string(), &id("shop/web"), now()).unwrap();
    let [entry] = <[_; 1]>::try_from(book.list()).unwrap();
    assert_eq!((entry.uses_left, entry.expires), (4, NOW + 3600));
    assert_eq!((entry.id, &entry.handle), (id("shop/web").to_string(), &token.handle()));
    assert!(matches!(book.revoke("nonsense"), Err(TokenError::Unknown)));
    book.revoke(&entry.handle).unwrap();
    assert_eq!(word(desk.open().redeem(&token.to_string(), &id("shop/web"), now())), "token-unknown");
}

#[test]
fn the_secret_is_in_the_text_and_nowhere_else() {
    let desk = Desk::new();
    let mut book = desk.open();
    let token = book.create(&id("shop/web"), 1, HOUR, now()).unwrap();
    let text = token.to_string();
    let secret = text.rsplit_once('.').unwrap().1;
    let path = desk.dir.path().join("tokens.json");
    let stored = fs::read_to_string(&path).unwrap();
    for shown in [format!("{token:?}"), format!("{book:?} {:?}", book.list()), stored] {
        assert!(!shown.contains(secret), "{shown}");
    }
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_use_that_cannot_be_written_does_not_count() {
    let desk = Desk::new();
    let mut book = desk.open();
    let text = book.create(&id("shop/web"), 1, HOUR, now()).unwrap().to_string();
    // a directory where the temporary file belongs: refused for root as well
    let block = desk.dir.path().join("tokens.json.new");
    fs::create_dir(&block).unwrap();
    assert_eq!(word(book.redeem(&text, &id("shop/web"), now())), "token-storage");
    assert!(matches!(book.create(&id("shop/web"), 1, HOUR, now()), Err(TokenError::Storage(_))));
    assert_eq!(book.list().len(), 1);
    fs::remove_dir(&block).unwrap();
    assert_eq!(word(book.redeem(&text, &id("shop/web"), now())), "ok");
}

#[test]
fn useless_tokens_and_broken_books_are_refused() {
    let desk = Desk::new();
    let mut book = desk.open();
    assert!(matches!(book.create(&id("shop/web"), 0, HOUR, now()), Err(TokenError::Useless)));
    assert!(matches!(book.create(&id("shop/web"), 1, Duration::ZERO, now()), Err(TokenError::Useless)));
    let path = desk.dir.path().join("tokens.json");
    fs::write(&path, "{\"tokens\": [").unwrap();
    assert!(TokenBook::open(&path, &desk.hash).is_err(), "never taken for an empty book");
    assert!(TokenBook::open(&path, "not a hash").is_err());
}

#[test]
fn a_book_is_bounded() {
    let desk = Desk::new();
    let record = |n: u32| {
        format!("{{\"sha256\":\"{n:064x}\",\"id\":\"spiffe://mesh.test/a\",\"uses_left\":1,\"expires\":{}}}", NOW + 60)
    };
    // handles are the first 16 digits, so the count goes there
    let spread = |n: u32| record(n).replace(&format!("{n:064x}"), &format!("{n:016x}{:048x}", 0));
    let all: Vec<_> = (0..100_000).map(spread).collect();
    let path = desk.dir.path().join("tokens.json");
    fs::write(&path, format!("{{\"tokens\":[{}]}}", all.join(","))).unwrap();
    let mut book = desk.open();
    assert_eq!(book.list().len(), 100_000);
    let some = SpiffeId::parse("spiffe://mesh.test/a").unwrap();
    assert!(matches!(book.create(&some, 1, HOUR, now()), Err(TokenError::Full)));
    // a day after they ended they make room
    assert!(book.create(&some, 1, HOUR, at(NOW + 60 + DAY)).is_ok());
    assert_eq!(book.list().len(), 1);
}
