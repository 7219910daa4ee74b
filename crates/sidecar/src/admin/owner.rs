//! Who holds a circuit: the user whose process asked, as the kernel knows it.
//!
//! The name comes from `/etc/passwd` alone: a name service may block, and may be what is broken just now.

/// A larger file is not read.
const MAX_FILE: u64 = 1 << 20;

pub(super) fn owner(uid: Option<u32>) -> String {
    let Some(uid) = uid else { return "unknown".into() };
    let readable = std::fs::metadata("/etc/passwd").is_ok_and(|file| file.len() <= MAX_FILE);
    let users = if readable { std::fs::read_to_string("/etc/passwd").unwrap_or_default() } else { String::new() };
    named(&users, uid)
}

/// `name:password:uid:...` a line.
fn named(users: &str, uid: u32) -> String {
    let found = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty() && name.chars().all(|c| c.is_ascii_graphic()))?;
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    });
    found.map_or_else(|| format!("uid {uid}"), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_called_by_name_where_there_is_one() {
        let users = "root:x:0:0:root:/root:/bin/sh\n# a remark\n:x:7::\nada:x:1000:1000::/home/ada:/bin/sh\n";
        assert_eq!(named(users, 0), "root");
        assert_eq!(named(users, 1000), "ada");
        assert_eq!(named(users, 1001), "uid 1001");
        assert_eq!(named(users, 7), "uid 7", "a line without a name is nobody's");
        assert_eq!(named("", 0), "uid 0");
        assert_eq!(owner(None), "unknown");
    }
}
