//! One Secret, written by several.

use crate::cluster;
use fusewire_kubernetes::{ClusterError, Document, Presences, Version};
use fusewire_testkit::KubeApi;
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[tokio::test]
async fn a_write_is_over_what_was_read_or_not_at_all() {
    let api = KubeApi::start();
    let document = Document::new(&cluster(&api).await, "fusewire-store");
    assert_eq!(document.read().await, Ok(None));
    let first = document.write(b"1".to_vec(), None).await.unwrap();
    assert!(matches!(document.write(b"x".to_vec(), None).await, Err(ClusterError::Conflict(_))));
    let second = document.write(b"2".to_vec(), Some(&first)).await.unwrap();
    assert!(matches!(document.write(b"3".to_vec(), Some(&first)).await, Err(ClusterError::Conflict(_))));
    assert_eq!(document.version().await, Ok(Some(second.clone())));
    assert_eq!(document.read().await, Ok(Some((second.clone(), b"2".to_vec()))));
    api.remove("secrets", "fusewire", "fusewire-store");
    assert!(matches!(document.write(b"3".to_vec(), Some(&second)).await, Err(ClusterError::Conflict(_))));
}

#[tokio::test]
async fn whether_a_write_happened_is_not_known_where_it_is_not_answered() {
    let api = KubeApi::start();
    let document = Document::new(&cluster(&api).await, "fusewire-store");
    let first = document.write(b"1".to_vec(), None).await.unwrap();
    api.freeze();
    let (read, written) = tokio::join!(document.read(), document.write(b"2".to_vec(), Some(&first)));
    assert!(matches!(read, Err(ClusterError::Unavailable(_))), "{read:?}");
    assert!(matches!(written, Err(ClusterError::Uncertain(_))), "{written:?}");
    api.thaw();
    api.go_down();
    let document = Document::new(&cluster(&api).await, "fusewire-store");
    let written = document.write(b"3".to_vec(), Some(&first)).await;
    assert!(matches!(written, Err(ClusterError::Unavailable(_))), "nothing was sent: {written:?}");
}

/// Over a connection that may be cut: then it is looked whether it is there.
async fn written(document: &Document, value: &[u8], mut at: Version) -> Version {
    loop {
        match document.write(value.to_vec(), Some(&at)).await {
            Ok(version) => return version,
            Err(ClusterError::Uncertain(_) | ClusterError::Unavailable(_) | ClusterError::Conflict(_)) => {}
            Err(error) => panic!("{error}"),
        }
        if let Ok(Some((version, there))) = document.read().await {
            if there == value {
                return version;
            }
            at = version;
        }
    }
}

#[tokio::test]
async fn every_write_is_told_in_order() {
    let api = KubeApi::start();
    let document = Document::new(&cluster(&api).await, "fusewire-store");
    let told = Arc::<Mutex<Vec<Option<String>>>>::default();
    let (following, tell) = (document.clone(), told.clone());
    tokio::spawn(async move {
        let text = |value: Vec<u8>| String::from_utf8(value).unwrap();
        following.follow(|found| tell.lock().unwrap().push(found.map(|(_, value)| text(value)))).await;
    });
    crate::until("it is listed", || (told.lock().unwrap().len() == 1).then_some(())).await;
    let mut at = document.write(b"0".to_vec(), None).await.unwrap();
    for n in 1..20 {
        if n % 5 == 0 {
            api.cut();
        }
        at = written(&document, n.to_string().as_bytes(), at).await;
    }
    crate::until("all of it", || (told.lock().unwrap().last() == Some(&Some("19".into()))).then_some(())).await;
    let told: Vec<_> = told.lock().unwrap().iter().flatten().cloned().collect();
    assert_eq!(told, (0..20).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_presence_is_renewed_with_another_stamp_and_ends() {
    let api = KubeApi::start();
    let presences = Presences::new(&cluster(&api).await, "s");
    presences.beat("fusewire-replica-a", "a", Duration::from_secs(10)).await.unwrap();
    let first = presences.look().await.unwrap();
    presences.beat("fusewire-replica-a", "a", Duration::from_secs(10)).await.unwrap();
    let second = presences.look().await.unwrap();
    assert_eq!((first[0].lease.as_str(), first[0].holds), ("fusewire-replica-a", Duration::from_secs(10)));
    assert_ne!(first[0].stamp, second[0].stamp);
    presences.end("fusewire-replica-a").await.unwrap();
    presences.end("fusewire-replica-a").await.unwrap();
    assert_eq!(presences.look().await.unwrap(), []);
}
