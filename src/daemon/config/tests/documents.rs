//! What is made from the table: `--print-config`, `--help` and the reference in the README.

use super::*;
use crate::base::budget;

#[test]
fn print_config_reads_back_to_the_same() {
    let mut cases: Vec<Layers> = vec![Layers::new(&[]), Layers::new(&[]).file(EVERYTHING)];
    let mut lowered = Layers::new(&["--shards=2"]);
    lowered.host.descriptors = Some(4_096);
    cases.push(lowered);
    cases.push(Layers::new(&["--allowed-origins=", "--node=x"]).env("ARQONBUS_LOG_LEVEL", "warn"));
    for (path, values) in SAMPLES {
        let key = find(path).unwrap();
        cases.extend(values.iter().map(|text| Layers::new(&[&format!("--{}={text}", key.flag)])));
    }
    for layers in cases {
        let loaded = layers.load().unwrap();
        let text = print_config(&loaded);
        // On another machine, so that every value must come from the text.
        let mut again = Layers::new(&[]).file(&text);
        again.host = Host::anywhere();
        let reloaded = again.load().unwrap_or_else(|m| panic!("{m:?} in\n{text}"));
        assert_eq!(reloaded.config, loaded.config, "{text}");
        for key in KEYS {
            let line = format!(
                "Environment: {}. Flag: --{}. From: {}.",
                key.env(),
                key.flag,
                loaded.source(key.path).as_str()
            );
            assert!(text.contains(&line) && text.contains(key.doc), "{} in\n{text}", key.path);
        }
    }
}

#[test]
fn a_password_is_never_printed_and_never_told() {
    let flags = ["--storage=redis", "--redis-url=redis://ann:secret@h:1/2"];
    let layers = Layers::new(&flags).file("");
    let loaded = layers.load().unwrap();
    let text = print_config(&loaded);
    assert!(text.contains(r#"redis_url = "redis://ann:***@h:1/2""#), "{text}");
    assert!(!text.contains("secret") && !format!("{loaded:?}").contains("secret"));
    let given = crate::storage::RedisUrl::parse("redis://ann:secret@h:1/2").unwrap();
    assert_eq!(loaded.config.redis_url, Some(given), "the password is there, if not shown");
    // Another password is another value all the same.
    let other = Layers::new(&["--storage=redis", "--redis-url=redis://ann:other@h:1/2"]).file("");
    let reload = reload::reload_on(&other.host, &loaded.config, &other.args, |_| None).unwrap();
    assert_eq!(reload.needs_restart, ["redis_url"]);
    assert!(!format!("{reload:?}").contains("secret"));
}

#[test]
fn the_login_of_sentinels_stands_beside_the_url_and_is_never_shown() {
    let url = "--redis-url=redis+sentinel://:secret1@h/main";
    let flags = ["--storage=redis", url, "--redis-sentinel-user=ann"];
    let layers = Layers::new(&flags).file("redis_sentinel_password = 'secret2'");
    let loaded = layers.load().unwrap();
    let text = print_config(&loaded);
    assert!(text.contains(r#"redis_sentinel_password = "***""#), "{text}");
    assert!(text.contains(r#"redis_sentinel_user = "ann""#), "{text}");
    assert!(!text.contains("secret") && !format!("{loaded:?}").contains("secret"));
    let whole = "redis+sentinel://:secret1@h/main?sentinel_user=ann&sentinel_password=secret2";
    let whole = crate::storage::RedisUrl::parse(whole).unwrap();
    assert_eq!(loaded.config.redis(), Ok(Some(whole)));
    let other = Layers::new(&flags).file("redis_sentinel_password = 'secret3'");
    let reload = reload::reload_on(&other.host, &loaded.config, &other.args, |_| None).unwrap();
    assert_eq!(reload.needs_restart, ["redis_sentinel_password"]);
    for (flags, word) in [
        (&["--redis-sentinel-user=ann"][..], "no `redis_url`"),
        (
            &["--storage=redis", "--redis-url=redis://h", "--redis-sentinel-user=ann"],
            "redis+sentinel://",
        ),
    ] {
        let mistakes = Layers::new(flags).file("").load().unwrap_err();
        assert!(mistakes.iter().any(|it| it.to_string().contains(word)), "{mistakes:?}");
    }
}

#[test]
fn help_knows_every_key() {
    let mut command = ServeArgs::augment_args(Command::new("serve"));
    command.build();
    let help = command.render_long_help().to_string();
    // Long lines are wrapped.
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    for key in KEYS {
        assert!(help.contains(&format!("--{} <", key.flag)), "{} in\n{help}", key.flag);
        assert!(help.contains(&format!("[env: {}]", key.env())), "{}", key.flag);
    }
    assert!(help.contains("--config <FILE>") && help.contains("--print-config"));
    assert!(flags(&["--print-config"]).print_config);
}

/// Set this variable to write the reference into the README instead of comparing it.
const WRITE_REFERENCE: &str = "ARQONBUS_WRITE_REFERENCE";

#[test]
fn the_readme_holds_the_reference_of_all_keys() {
    const BEGIN: &str = "<!-- configuration reference: begin -->\n";
    const END: &str = "<!-- configuration reference: end -->";
    let table = markdown_table();
    for key in KEYS {
        assert_eq!(table.matches(&format!("| `{}` | `--{}` |", key.path, key.flag)).count(), 1);
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let Ok(readme) = fs::read_to_string(&path) else {
        return;
    };
    let advice = format!("`{WRITE_REFERENCE}=1 cargo test --lib the_readme_holds` writes it");
    let parts = readme.split_once(BEGIN).and_then(|(before, rest)| {
        let (inside, after) = rest.split_once(END)?;
        Some((before, inside, after))
    });
    let Some((before, inside, after)) = parts else {
        panic!("README.md has no block between {BEGIN:?} and {END:?}; {advice} into one");
    };
    if std::env::var_os(WRITE_REFERENCE).is_some() {
        fs::write(&path, format!("{before}{BEGIN}\n{table}\n{END}{after}")).unwrap();
    } else {
        assert_eq!(inside.trim(), table.trim(), "README.md is not up to date; {advice}");
    }
}

#[test]
fn the_budget_page_is_what_the_table_says() {
    let page = budget::page_of_defaults();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/budget.md");
    if std::env::var_os(WRITE_REFERENCE).is_some() {
        fs::write(&path, page).unwrap();
        return;
    }
    let advice = format!("`{WRITE_REFERENCE}=1 cargo test --lib the_budget_page` writes it");
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(written, page, "docs/budget.md is not up to date; {advice}");
}
