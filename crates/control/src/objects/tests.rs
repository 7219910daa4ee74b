//! Changes as operators make them, one after the other and at once, over the embedded store.

use super::*;
use crate::store::StoreSettings;
use std::collections::BTreeSet;
use tempfile::TempDir;

struct Place {
    objects: ObjectStore,
    files: Arc<[Source]>,
    dir: TempDir,
}

fn source(name: &str, text: &str) -> Source {
    Source { name: name.into(), text: text.into() }
}

fn name(text: &str) -> ObjectName {
    ObjectName::parse(text).unwrap()
}

fn by(author: &str) -> Terms {
    Terms { author: author.into(), message: format!("by {author}"), ..Terms::default() }
}

async fn open(dir: &TempDir) -> ObjectStore {
    let store = Store::open(&StoreSettings::Embedded(dir.path().join("store"))).await.unwrap();
    ObjectStore::new(store, TrustDomain::default())
}

impl Place {
    async fn new(files: &[Source]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { objects: open(&dir).await, files: files.into(), dir }
    }

    async fn apply(&self, text: &str, terms: &Terms) -> Result<Outcome, ObjectsError> {
        self.objects.change(&self.files, &Wish::Apply(vec![source("new.yaml", text)]), terms).await
    }

    async fn delete(&self, names: &[&str], terms: &Terms) -> Result<Outcome, ObjectsError> {
        let names = names.iter().map(|text| name(text)).collect();
        self.objects.change(&self.files, &Wish::Delete(names), terms).await
    }

    async fn names(&self) -> Vec<String> {
        self.objects.read().await.unwrap().objects.keys().map(ToString::to_string).collect()
    }
}

#[tokio::test]
async fn what_was_applied_is_there_with_its_revision_and_after_a_restart() {
    let place = Place::new(&[]).await;
    let first = place.apply("services: {shop: , bank: }", &by("ada")).await.unwrap();
    assert_eq!((first.revision, first.changes.len()), (1, 2));
    let second = place.apply("services: {shop: {protocol: http2}, bank: }", &by("bob")).await.unwrap();
    assert_eq!((second.revision, second.changes.len()), (2, 1), "bank has not changed");
    assert_ne!(first.version, second.version);
    let Place { objects, dir, .. } = place;
    drop(objects);
    let now = open(&dir).await.read().await.unwrap();
    assert_eq!(now.revision, 2);
    assert_eq!(&*now.objects[&name("service/shop")], "services:\n  shop:\n    protocol: http2\n");
    let about = |text: &str| (now.about[&name(text)].revision, now.about[&name(text)].author.clone());
    assert_eq!((about("service/bank"), about("service/shop")), ((1, "ada".into()), (2, "bob".into())));
}

#[tokio::test]
async fn what_changes_nothing_makes_no_revision() {
    let place = Place::new(&[]).await;
    place.apply("services:\n  shop: {protocol: http2}", &by("ada")).await.unwrap();
    let again = place.apply("services: # the same\n  'shop':\n    protocol: \"http2\"", &by("bob")).await.unwrap();
    assert_eq!((again.revision, again.changes), (1, Vec::new()));
    assert_eq!(place.objects.history(10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_dry_run_says_what_would_change_and_changes_nothing() {
    let place = Place::new(&[]).await;
    place.apply("services: {shop: }", &by("ada")).await.unwrap();
    let dry = Terms { dry_run: true, ..by("ada") };
    let told = place.apply("services: {shop: {protocol: http2}, bank: }", &dry).await.unwrap();
    assert_eq!(told.revision, 1);
    let texts: Vec<_> =
        told.changes.iter().map(|c| (c.name.to_string(), c.before.is_some(), c.after.is_some())).collect();
    assert_eq!(texts, [("service/bank".to_owned(), false, true), ("service/shop".to_owned(), true, true)]);
    assert_eq!(place.delete(&["service/shop"], &dry).await.unwrap().changes.len(), 1);
    assert_eq!(place.names().await, ["service/shop"]);
}

#[tokio::test]
async fn a_fault_anywhere_changes_nothing() {
    let place = Place::new(&[source("mesh.yaml", "routes:\n  old: {to: shop}\nservices: {shop: }")]).await;
    let text = "services: {good: , bad: {protocol: htpp}}\nroutes: {web: {to: nowhere}}";
    let Err(ObjectsError::Faults(faults)) = place.apply(text, &by("ada")).await else { panic!("it was applied") };
    assert_eq!(faults.len(), 2, "{faults:?}");
    assert!(place.names().await.is_empty());
    // and what others refer to cannot go
    place.apply("services: {good: }\nroutes: {web: {to: good}}", &by("ada")).await.unwrap();
    let refused = place.delete(&["service/good"], &by("ada")).await.unwrap_err().to_string();
    assert!(refused.contains("api:route/web:3:9: routes.web.to: service good is not defined"), "{refused}");
    assert_eq!(place.names().await.len(), 2);
    place.delete(&["service/good", "route/web"], &by("ada")).await.unwrap();
    assert!(place.names().await.is_empty());
}

#[tokio::test]
async fn what_a_file_defines_is_its_own() {
    let place = Place::new(&[source("mesh.yaml", "services:\n  shop:\n")]).await;
    let refused = place.apply("services: {shop: {protocol: http2}}", &by("ada")).await.unwrap_err().to_string();
    assert!(refused.contains("service/shop is defined by mesh.yaml:2"), "{refused}");
    let refused = place.delete(&["service/shop"], &by("ada")).await.unwrap_err();
    assert!(matches!(&refused, ObjectsError::OfAFile(said) if said.contains("mesh.yaml:2")), "{refused}");
    let refused = place.delete(&["service/none", "policy/none"], &by("ada")).await.unwrap_err();
    assert!(
        matches!(&refused, ObjectsError::NotFound(said) if said.contains("service/none, policy/none")),
        "{refused}"
    );
}

#[tokio::test]
async fn an_object_that_a_file_defines_since_can_still_be_taken_back() {
    let mut place = Place::new(&[]).await;
    place.apply("services: {shop: }", &by("ada")).await.unwrap();
    place.files = [source("mesh.yaml", "services: {shop: {protocol: http2}}")].into();
    place.apply("services: {bank: }", &by("ada")).await.expect("a shadowed object is nobody's obstacle");
    place.delete(&["service/shop"], &by("ada")).await.unwrap();
    assert_eq!(place.names().await, ["service/bank"]);
}

#[tokio::test]
async fn a_stale_writer_is_told_who_changed_what() {
    let place = Place::new(&[]).await;
    place.apply("services: {shop: , bank: }", &by("ada")).await.unwrap();
    place.apply("services: {shop: {protocol: http2}}", &by("bob")).await.unwrap();
    place.delete(&["service/bank"], &by("eve")).await.unwrap();
    let seen = |revision| Terms { if_revision: Some(revision), ..by("ada") };

    let Err(ObjectsError::Stale(said)) = place.apply("services: {shop: {protocol: http1}}", &seen(1)).await else {
        panic!("bob's change was lost")
    };
    assert!(said.contains("service/shop was changed by bob at 20") && said.contains("(revision 2)"), "{said}");
    let Err(ObjectsError::Stale(said)) = place.apply("services: {bank: }", &seen(2)).await else {
        panic!("it came back from the dead")
    };
    assert!(said.contains("service/bank was changed by eve") && !said.contains("shop"), "{said}");
    let refused = place.apply("services: {bank: }", &seen(9)).await.unwrap_err();
    assert!(matches!(refused, ObjectsError::Invalid(_)), "{refused}");
    // others' changes of other objects are no obstacle
    place.apply("services: {shop: {protocol: http1}}", &seen(2)).await.unwrap();
    place.apply("services: {new: }", &seen(1)).await.unwrap();
}

#[tokio::test]
async fn appliers_at_the_same_time_lose_nothing() {
    let place = Arc::new(Place::new(&[]).await);
    let one = |who: &'static str| {
        let place = place.clone();
        tokio::spawn(async move {
            let mut revisions = Vec::new();
            for n in 0..20 {
                loop {
                    match place.apply(&format!("services: {{{who}-{n}: }}"), &by(who)).await {
                        Ok(outcome) => break revisions.push(outcome.revision),
                        Err(ObjectsError::Busy) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            }
            revisions
        })
    };
    let (a, b, c) = tokio::join!(one("a"), one("b"), one("c"));
    let revisions: BTreeSet<u64> = [a, b, c].into_iter().flat_map(Result::unwrap).collect();
    assert_eq!(revisions, (1..=60).collect());
    assert_eq!(place.names().await.len(), 60);
    assert_eq!(place.objects.history(usize::MAX).await.unwrap().len(), 60);
}

#[tokio::test]
async fn a_rollback_makes_everything_what_it_was_as_a_new_revision() {
    let place = Place::new(&[]).await;
    place.apply("services: {shop: , bank: }", &by("ada")).await.unwrap();
    let then = place.objects.read().await.unwrap().objects;
    place.apply("services: {shop: {protocol: http2}, new: }", &by("ada")).await.unwrap();
    place.delete(&["service/bank"], &by("ada")).await.unwrap();
    let dry = Terms { dry_run: true, ..by("bob") };
    assert_eq!(place.objects.roll_back(&place.files, 1, &dry).await.unwrap().changes.len(), 3);
    let done = place.objects.roll_back(&place.files, 1, &by("bob")).await.unwrap();
    assert_eq!((done.revision, done.changes.len()), (4, 3));
    assert_eq!(place.objects.read().await.unwrap().objects, then);
    // back again, and to nothing
    place.objects.roll_back(&place.files, 3, &by("bob")).await.unwrap();
    assert_eq!(place.names().await, ["service/new", "service/shop"]);
    place.objects.roll_back(&place.files, 0, &by("bob")).await.unwrap();
    assert!(place.names().await.is_empty());
    let refused = place.objects.roll_back(&place.files, 99, &by("bob")).await.unwrap_err();
    assert!(matches!(refused, ObjectsError::NotFound(_)), "{refused}");
}

#[tokio::test]
async fn a_rollback_to_what_is_not_valid_any_more_is_refused_with_its_faults() {
    let mut place = Place::new(&[source("mesh.yaml", "services: {shop: }")]).await;
    place.apply("routes: {web: {to: shop}}", &by("ada")).await.unwrap();
    place.delete(&["route/web"], &by("ada")).await.unwrap();
    place.files = [source("mesh.yaml", "services: {shoq: }")].into();
    let Err(ObjectsError::Faults(faults)) = place.objects.roll_back(&place.files, 1, &by("ada")).await else {
        panic!("a route to nowhere is in force")
    };
    assert_eq!(faults[0].file, "api:route/web");
}

#[tokio::test]
async fn history_says_who_changed_what_and_ends() {
    let place = Place::new(&[]).await;
    for n in 1..=KEPT_REVISIONS + 5 {
        let protocol = if n % 2 == 0 { "http1" } else { "http2" };
        place.apply(&format!("services: {{shop: {{protocol: {protocol}}}}}"), &by("ada")).await.unwrap();
    }
    let all = place.objects.history(usize::MAX).await.unwrap();
    assert_eq!(all.len() as u64, KEPT_REVISIONS);
    let newest = &all[0];
    assert_eq!((newest.revision, newest.message.as_str()), (KEPT_REVISIONS + 5, "by ada"));
    assert_eq!((newest.about.author.as_str(), newest.changes.len()), ("ada", 1));
    assert_eq!(all.last().unwrap().revision, 6);
    let whole = place.objects.revision(KEPT_REVISIONS + 5).await.unwrap();
    let change = &whole.changes[0];
    assert!(change.before.as_deref().unwrap().contains("http1") && change.after.as_deref().unwrap().contains("http2"));
    for gone in [5, 9_999] {
        assert!(matches!(place.objects.revision(gone).await, Err(ObjectsError::NotFound(_))), "{gone}");
    }
    assert!(
        place.objects.roll_back(&place.files, 5, &by("bob")).await.is_ok(),
        "6 is kept, which says what was before"
    );
    let refused = place.objects.roll_back(&place.files, 4, &by("bob")).await.unwrap_err();
    assert!(matches!(&refused, ObjectsError::NotFound(said) if said.contains("too long ago")), "{refused}");
}

#[tokio::test]
async fn too_much_is_refused_with_a_remedy() {
    let place = Place::new(&[]).await;
    let long = Terms { message: "x".repeat(1_001), ..by("ada") };
    assert!(matches!(place.apply("services: {shop: }", &long).await, Err(ObjectsError::Invalid(_))));
    let many: String = (0..=MAX_OBJECTS).map(|n| format!("  s{n}:\n")).collect();
    let refused = place.apply(&format!("services:\n{many}"), &by("ada")).await.unwrap_err();
    assert!(matches!(refused, ObjectsError::TooLarge(_)), "{refused}");
}
