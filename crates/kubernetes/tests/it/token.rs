//! Whom a token proves.

use crate::cluster;
use fusewire_kubernetes::{TokenError, review_token};
use fusewire_testkit::KubeApi;

#[tokio::test]
async fn a_token_made_for_us_proves_its_account_and_any_other_nothing() {
    let api = KubeApi::start();
    api.token("good-token", "system:serviceaccount:shop:web", &["fusewire"]);
    api.token("api-token", "system:serviceaccount:shop:web", &["https://kubernetes.default.svc"]);
    api.token("user-token", "jane", &["fusewire"]);
    let cluster = cluster(&api).await;
    assert_eq!(review_token(&cluster, "good-token").await.unwrap().path(), "ns/shop/sa/web");
    let refused = review_token(&cluster, "api-token").await.unwrap_err();
    assert!(refused.to_string().contains("audience: fusewire"), "{refused}");
    assert!(matches!(review_token(&cluster, "no-token").await, Err(TokenError::Refused(_))));
    assert_eq!(review_token(&cluster, "user-token").await, Err(TokenError::NoAccount("jane".into())));
    api.go_down();
    let away = review_token(&cluster, "good-token").await.unwrap_err();
    assert!(matches!(&away, TokenError::Unavailable(_)) && !away.to_string().contains("good-token"), "{away}");
}
