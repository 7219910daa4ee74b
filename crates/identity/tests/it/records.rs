//! Join tokens as records that any store may keep.

use std::time::Duration;

use fusewire_identity::{JoinToken, TokenError, TokenRecord, mint};
use proptest::prelude::*;

use crate::world::*;

const HOUR: Duration = Duration::from_secs(3600);

fn root() -> String {
    "ab".repeat(32)
}

fn made(uses: u32) -> (JoinToken, TokenRecord) {
    mint(&root(), &id("shop/web.v2"), uses, HOUR, now()).unwrap()
}

fn word(result: Result<TokenRecord, TokenError>) -> &'static str {
    result.map_or_else(|error| error.word(), |_| "ok")
}

fn spend(record: &mut TokenRecord, token: &JoinToken) -> &'static str {
    word(record.spend(token, &id("shop/web.v2"), now()).inspect(|next| *record = next.clone()))
}

#[test]
fn a_token_tells_a_joiner_whom_to_believe_and_who_it_will_be() {
    let (token, record) = made(1);
    let parsed = JoinToken::parse(&format!(" {token}\n")).unwrap();
    assert_eq!(parsed, token);
    assert_eq!((parsed.root_hash(), parsed.id()), (root(), &id("shop/web.v2")));
    assert_eq!(record.handle(), Some(token.handle()));
    assert_eq!((record.id.as_str(), record.uses_left, record.expires), (token.id().as_str(), 1, NOW + 3600));
}

#[test]
fn a_token_is_good_as_often_as_was_said_and_a_record_keeps_count() {
    let (token, mut record) = made(2);
    assert!(record.is_usable(now()));
    assert_eq!([(); 3].map(|()| spend(&mut record, &token)), ["ok", "ok", "token-spent"]);
    assert!(!record.is_usable(now()));
}

#[test]
fn a_refusal_spends_nothing_and_says_why() {
    let (token, mut record) = made(1);
    let web = id("shop/web.v2");
    assert_eq!(word(record.spend(&token, &id("shop/admin"), now())), "token-wrong-identity");
    assert_eq!(word(record.spend(&token, &web, at(NOW + 3600))), "token-expired");
    let promoted = JoinToken::parse(&token.to_string().replace("web.v2", "admin")).unwrap();
    assert_eq!(promoted.handle(), token.handle(), "a holder may rewrite the name");
    assert_eq!(word(record.spend(&promoted, &id("shop/admin"), now())), "token-wrong-identity");
    assert_eq!(word(record.spend(&promoted, &web, now())), "token-wrong-identity");
    let (other, _) = made(1);
    assert_eq!(word(record.spend(&other, &web, now())), "token-unknown");
    assert_eq!(word(record.spend(&token, &web, at(NOW + 3599))), "ok");
    assert_eq!(spend(&mut record, &token), "ok");
}

#[test]
fn an_ended_record_says_so_for_a_day_and_may_then_be_dropped() {
    let (_, record) = made(1);
    assert!(!record.is_dead(at(NOW + 3600 + DAY - 1)));
    assert!(record.is_dead(at(NOW + 3600 + DAY)));
    assert!(!record.is_usable(at(NOW + 3600)));
}

#[test]
fn a_rotation_can_tell_which_tokens_pin_a_root() {
    let (_, record) = made(1);
    assert!(record.pins(&root().to_uppercase(), "elsewhere"));
    assert!(!record.pins(&"cd".repeat(32), &"cd".repeat(32)));
    let older = format!("{{\"sha256\":\"{}\",\"id\":\"spiffe://mesh.test/a\",\"uses_left\":1,\"expires\":5}}", root());
    let older: TokenRecord = serde_json::from_str(&older).unwrap();
    assert!(older.pins(&root(), &root()), "a record without a root pins the one there was");
    assert!(!older.pins(&root(), &"cd".repeat(32)));
}

#[test]
fn the_secret_is_in_the_text_and_nowhere_else() {
    let (token, record) = made(1);
    let text = token.to_string();
    let secret = text.rsplit_once('.').unwrap().1;
    for shown in [format!("{token:?} {record:?}"), serde_json::to_string(&record).unwrap()] {
        assert!(!shown.contains(secret), "{shown}");
    }
    let back: TokenRecord = serde_json::from_str(&serde_json::to_string(&record).unwrap()).unwrap();
    assert_eq!(back, record);
}

#[test]
fn what_is_no_token_is_malformed() {
    let text = made(1).0.to_string();
    let long = format!("fwj1.{}", "a.".repeat(4000));
    let mut cases = vec![String::new(), "fwj1.".into(), "fwj1....".into(), "fwj2.a.b.c".into(), long];
    cases.extend((0..text.len()).map(|at| text[..at].to_owned()));
    cases.push(text.replace("spiffe://", "http://"));
    cases.push(format!("{text}="));
    for case in cases {
        assert!(matches!(JoinToken::parse(&case), Err(TokenError::Malformed)), "{case}");
    }
}

#[test]
fn useless_tokens_are_not_made() {
    let web = id("shop/web");
    assert!(matches!(mint(&root(), &web, 0, HOUR, now()), Err(TokenError::Useless)));
    assert!(matches!(mint(&root(), &web, 1, Duration::from_millis(999), now()), Err(TokenError::Useless)));
    assert!(mint("not a hash", &web, 1, HOUR, now()).is_err());
    assert_eq!(mint(&root(), &web, 1, Duration::MAX, now()).unwrap().1.expires, u64::MAX);
}

proptest! {
    #[test]
    fn any_text_is_a_token_or_malformed_and_never_a_panic(text in any::<String>(), bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        for text in [text.clone(), format!("fwj1.{text}"), String::from_utf8_lossy(&bytes).into_owned()] {
            if let Err(error) = JoinToken::parse(&text) {
                prop_assert_eq!(error.word(), "token-malformed");
            }
        }
    }

    #[test]
    fn a_mutated_token_gains_nothing(at in any::<prop::sample::Index>(), with in any::<char>()) {
        let (token, record) = made(1);
        let mut chars: Vec<char> = token.to_string().chars().collect();
        let at = at.index(chars.len());
        chars[at] = with;
        let Ok(changed) = JoinToken::parse(&chars.into_iter().collect::<String>()) else { return Ok(()) };
        // the hash of the root may be rewritten (then the joiner believes nobody), case of nothing else matters
        if record.spend(&changed, &id("shop/web.v2"), now()).is_ok() {
            prop_assert_eq!(changed.handle(), token.handle());
            prop_assert_eq!(changed.id(), token.id());
        }
    }

    #[test]
    fn any_record_from_a_store_is_judged_without_a_panic(
        sha256 in "[0-9a-fA-Fg]{0,70}", name in any::<String>(), uses_left in any::<u32>(), expires in any::<u64>(), now in any::<u64>(),
    ) {
        let text = serde_json::json!({ "sha256": sha256, "id": name, "uses_left": uses_left, "expires": expires });
        let record: TokenRecord = serde_json::from_value(text).unwrap();
        let (token, _) = made(1);
        prop_assert!(record.spend(&token, &id("shop/web.v2"), at(now)).is_err());
        let _ = (record.handle(), record.is_dead(at(now)), record.is_usable(at(now)), record.pins(&name, ""));
    }
}
