//! What the scanner accepts, and what it refuses and how.

use super::*;
use crate::protocol::fault::Refusal;

fn fault(text: &str) -> Option<Fault> {
    let error = members(text, |_, _| ()).err()?;
    assert!(error.at <= text.len() && !error.message.is_empty(), "{error:?}");
    assert!(error.message.len() < 300, "{error:?}");
    Some(error.fault)
}

/// `{"a":{"a":…}}`, so many levels deep.
fn nested(depth: usize) -> String {
    format!("{}0{}", r#"{"a":"#.repeat(depth), "}".repeat(depth))
}

#[test]
fn good_texts_are_accepted() {
    for text in [
        "{}",
        " \t\r\n{ \t\r\n} \t\r\n",
        r#"{"":""}"#,
        r#"{"a":[],"b":{},"c":[{}],"d":[[[]]]}"#,
        r#"{ "a" : [ 1 , 2 ] , "b" : null , "c":true,"d":false}"#,
        r#"{"a":0,"b":-0,"c":1.5,"d":-0.0,"e":1E+2,"f":1e-400,"g":0e0,"h":1e308}"#,
        r#"{"a":123456789012345678901234567890,"b":1.7976931348623157e308}"#,
        r#"{"a":"\"\\\/\b\f\n\r\t\u0000\uD83D\uDE00\ud83d\ude00"}"#,
        "{\"a\":\"\u{7f}\u{80}\u{2028}é😀\"}",
        r#"{"a":{"a":{"a":1},"b":{"a":1}},"b":[{"a":1},{"a":1}]}"#,
        r#"{"a":1,"A":2,"a ":3,"\u0061\u0061":4}"#,
        &nested(64),
    ] {
        assert_eq!(fault(text), None, "{text}");
    }
}

#[test]
fn bad_texts_are_refused() {
    for text in [
        "",
        " ",
        "[]",
        "1",
        "null",
        "\"a\"",
        "{",
        "}",
        "{]",
        "{}{}",
        "{}x",
        "{},",
        "{}\0",
        "\u{feff}{}",
        "{a:1}",
        "{'a':1}",
        r#"{"a"}"#,
        r#"{"a":}"#,
        r#"{"a":1,}"#,
        r#"{,"a":1}"#,
        r#"{"a":1 "b":2}"#,
        r#"{"a" 1}"#,
        r#"{"a"::1}"#,
        r#"{"a":1;"b":2}"#,
        r#"{1:1}"#,
        r#"{"a":[1,]}"#,
        r#"{"a":[,1]}"#,
        r#"{"a":[1 2]}"#,
        r#"{"a":[1}"#,
        r#"{"a":{]}"#,
        r#"{"a":[}"#,
        r#"{"a":01}"#,
        r#"{"a":-}"#,
        r#"{"a":-01}"#,
        r#"{"a":00}"#,
        r#"{"a":+1}"#,
        r#"{"a":1.}"#,
        r#"{"a":.5}"#,
        r#"{"a":1e}"#,
        r#"{"a":1e+}"#,
        r#"{"a":1.e5}"#,
        r#"{"a":0x10}"#,
        r#"{"a":1_0}"#,
        r#"{"a":NaN}"#,
        r#"{"a":Infinity}"#,
        r#"{"a":-Infinity}"#,
        r#"{"a":1e400}"#,
        r#"{"a":-1e400}"#,
        r#"{"a":1e309}"#,
        r#"{"a":[[1e999999999999999999999]]}"#,
        r#"{"a":True}"#,
        r#"{"a":tru}"#,
        r#"{"a":nul}"#,
        r#"{"a":truefalse}"#,
        r#"{"a":undefined}"#,
        r#"{"a":"}"#,
        r#"{"a":"\"}"#,
        r#"{"a":"\x41"}"#,
        r#"{"a":"\u12"}"#,
        r#"{"a":"\u12g4"}"#,
        r#"{"a":"\U0041"}"#,
        r#"{"a":"\uD800"}"#,
        r#"{"a":"\uDC00"}"#,
        r#"{"a":"\uD800\uD800"}"#,
        r#"{"a":"\uD800x"}"#,
        r#"{"a":"\uDC00\uD800"}"#,
        r#"{"a":"\uD800\u0041"}"#,
        r#"{"\uD800":1}"#,
        "{\"a\":\"\n\"}",
        "{\"a\":\"\t\"}",
        "{\"a\":\"\0\"}",
        "{\"a\n\":1}",
        "{\"a\":\u{a0}1}",
        "{\"a\":1}\u{a0}",
        "{\u{b}}",
        "{/**/}",
        "{}//",
    ] {
        assert_eq!(fault(text), Some(Fault::InvalidJson), "{text}");
    }
    let digits = "9".repeat(400);
    assert_eq!(fault(&format!(r#"{{"a":{digits}}}"#)), Some(Fault::InvalidJson));
}

#[test]
fn brackets_close_what_they_opened() {
    for text in [r#"{"a":[1}}"#, r#"{"a":[1}]}"#, r#"{"a":[}}"#, r#"{"a":{"b":1]}"#, r#"{"a":{]}"#]
    {
        assert_eq!(fault(text), Some(Fault::InvalidJson), "{text}");
    }
}

#[test]
fn surrogates_come_in_pairs_high_then_low() {
    let edges = [0xD7FF, 0xD800, 0xDBFF, 0xDC00, 0xDFFF, 0xE000];
    for one in edges {
        for other in edges {
            let units = [one, other];
            let is_good = String::from_utf16(&units).is_ok();
            let text = format!(r#"{{"a":"\u{one:04x}\u{other:04X}"}}"#);
            assert_eq!(fault(&text).is_none(), is_good, "{text}");
            members(&text, |_, value| match value {
                Value::Text(text) => assert_eq!(text.get(), String::from_utf16_lossy(&units)),
                other => panic!("{other:?}"),
            })
            .map_or_else(|error| assert_eq!(error.fault, Fault::InvalidJson), |()| ());
        }
    }
}

#[test]
fn nesting_ends_at_the_limit() {
    assert_eq!(fault(&nested(65)), Some(Fault::TooDeep));
    let arrays = |depth| format!(r#"{{"a":{}{}}}"#, "[".repeat(depth), "]".repeat(depth));
    assert_eq!(fault(&arrays(63)), None);
    assert_eq!(fault(&arrays(64)), Some(Fault::TooDeep));
    assert_eq!(fault(&format!(r#"{{"a":{}"#, "[".repeat(1_000_000))), Some(Fault::TooDeep));
    assert_eq!(fault(&r#"{"a":"#.repeat(200_000)), Some(Fault::TooDeep));
    // Siblings don't add up.
    let siblings = format!(r#"{{"a":[{}0]}}"#, "[[]],".repeat(1_000));
    assert_eq!(fault(&siblings), None);
}

#[test]
fn no_key_stands_twice() {
    for text in [
        r#"{"a":1,"a":1}"#,
        r#"{"a":1,"\u0061":1}"#,
        r#"{"\u0061":1,"a":1}"#,
        r#"{"\u0061":1,"\u0061":1}"#,
        r#"{"\n":1,"\u000a":1}"#,
        r#"{"":1,"b":2,"":1}"#,
        r#"{"x":[{"y":{"abcdefgh-long-key":1,"abcdefgh-long-key":2}}]}"#,
        r#"{"x":{"a":1,"b":{"a":2,"\t":3},"a":3}}"#,
        r#"{"\ud83d\ude00":1,"😀":2}"#,
    ] {
        assert_eq!(fault(text), Some(Fault::DuplicateKey), "{text}");
    }
    let error = members(r#"{"a":1,"say \"hi\"":1,"say \"hi\"":1}"#, |_, _| ()).unwrap_err();
    assert!(error.message.contains(r#"the key "say \"hi\"" stands twice"#), "{error:?}");
    assert_eq!(error.at, 22);
}

#[test]
fn large_objects_are_checked_too_and_in_time() {
    for count in [1, 23, 24, 25, 26, 100, 100_000] {
        let keys: Vec<_> = (0..count).map(|n| format!(r#""key-{n}":0"#)).collect();
        let text = |more: &str| format!(r#"{{"x":{{{}{more}}}}}"#, keys.join(","));
        assert_eq!(fault(&text("")), None, "{count} keys");
        for more in [r#","key-0":0"#, r#","\u006bey-0":0"#] {
            assert_eq!(fault(&text(more)), Some(Fault::DuplicateKey), "{count} keys, {more}");
        }
        let escaped = text("").replace("key", r"\u006bey");
        assert_eq!(fault(&escaped), None, "{count} escaped keys");
    }
    // An object inside a large one, and keys that come after it.
    let many: Vec<_> = (0..50).map(|n| format!(r#""{n}":{{"0":{n}}}"#)).collect();
    let text = format!("{{{},\"7\":0}}", many.join(","));
    assert_eq!(fault(&text), Some(Fault::DuplicateKey));
}

#[test]
fn members_come_in_order_with_their_spans() {
    let text = r#" {"a" : {"x": [1, 2]} ,"\u0062":"\n","c":-1.5e3,"d":[ ],"e":null,"f":true}"#;
    let mut seen = Vec::new();
    members(text, |key, value| seen.push((key.get().into_owned(), value))).unwrap();
    let keys: Vec<_> = seen.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(keys, ["a", "b", "c", "d", "e", "f"]);
    assert_eq!(seen[0].1, Value::Object(r#"{"x": [1, 2]}"#));
    assert!(matches!(seen[1].1, Value::Text(text) if text.get() == "\n"));
    assert_eq!(seen[2].1, Value::Number("-1.5e3"));
    assert_eq!(seen[3].1, Value::Array("[ ]"));
    assert_eq!(seen[4].1, Value::Null);
    assert_eq!(seen[5].1, Value::Bool(true));
}

#[test]
fn strings_of_every_length_end_at_their_quote() {
    // What follows the string is long or short, so that whole words fit behind it or don't.
    for behind in ["}", r#","b":"0123456789012345678901234567890123456789"}"#] {
        for length in 0..80 {
            let string = |put: &str, at: usize| {
                let run = "é".repeat(length).chars().take(length).collect::<String>();
                let (before, after) = run.split_at(at * "é".len());
                (format!("{before}{put}{after}"), before.len())
            };
            for at in 0..=length {
                for (put, said) in [("", ""), (r#"\""#, "\""), (r"\u0041", "A"), (r"\\", "\\")] {
                    let text = format!(r#"{{"a":"{}"{behind}"#, string(put, at).0);
                    let mut first = None;
                    members(&text, |_, value| _ = first.get_or_insert(value)).unwrap();
                    let Some(Value::Text(found)) = first else { panic!("{text}: {first:?}") };
                    assert_eq!(found.get(), string(said, at).0, "{text}");
                }
                let (bad, place) = string("\u{1f}", at);
                let error = members(&format!(r#"{{"a":"{bad}"{behind}"#), |_, _| ()).unwrap_err();
                assert_eq!((error.fault, error.at), (Fault::InvalidJson, 6 + place), "{bad}");
            }
        }
    }
}

#[test]
fn known_members_are_all_or_nothing() {
    const KEYS: [KnownKey; 3] =
        [KnownKey::new("a"), KnownKey::new("bb"), KnownKey::new("thirteenbytes")];
    let read = |text| {
        let mut members = KnownMembers::of(text)?;
        members.open()?;
        let mut values = [None; 3];
        loop {
            let place = members.key(&KEYS)?;
            values[place] = match members.string(is_special) {
                Some(string) => Some(string),
                None if members.take(b"12").is_some() => Some("twelve"),
                None => members.object(),
            };
            if !members.goes_on()? {
                members.end()?;
                return Some((values.map(Option::unwrap_or_default), members.were_first(2)));
            }
        }
    };
    for (text, values) in [
        (r#"{"a":"x","bb":12,"thirteenbytes":{}}"#, (["x", "twelve", "{}"], false)),
        (" { \n\"bb\":\t{ } , \"a\": \"ü\" } ", (["ü", "{ }", ""], true)),
        (r#"{"thirteenbytes":{"a":[{}],"b":1}}"#, (["", "", r#"{"a":[{}],"b":1}"#], false)),
        (r#"{"a":12,"a":""}"#, (["", "", ""], false)),
    ] {
        assert_eq!(read(text), Some(values), "{text}");
    }
    for text in [
        "",
        " ",
        "{}",
        "[]",
        r#"{"a" :12}"#,
        r#"{"\u0061":12}"#,
        r#"{"a":12,"c":12}"#,
        r#"{"a":12,}"#,
        r#"{"a":12}}"#,
        r#"{"a":1}"#,
        r#"{"a":"\n"}"#,
        r#"{"a":"x"#,
        r#"{"a":{"b":1,"b":1}}"#,
        r#"{"a":12"#,
        r#"{"a":"#,
        r#"{"a""#,
    ] {
        assert_eq!(read(text), None, "{text}");
    }
}

#[test]
fn elements_come_in_order_until_one_is_refused() {
    let mut seen = Vec::new();
    let mut read = |text| {
        try_elements(text, |value| {
            seen.push(value.type_name());
            match value {
                Value::Null => Err(Refusal::new(Fault::BadTarget, "no")),
                _ => Ok(()),
            }
        })
        .map_err(|refusal| refusal.fault)
    };
    assert_eq!(read(r#"[1, "a", {}]"#), Ok(()));
    assert_eq!(read("[true, null, []]"), Err(Fault::BadTarget));
    for bad in ["", "{}", "[null", "[null,]", "[] []"] {
        assert_eq!(read(bad), Err(Fault::InvalidJson), "{bad}");
    }
    let expected = ["a number", "a string", "an object", "a boolean", "null", "null", "null"];
    assert_eq!(seen, expected);
}

#[test]
fn members_may_be_refused_but_json_goes_first() {
    let read = |text| {
        try_members(text, |key, _| match &*key.get() {
            "bad" => Err(Refusal::new(Fault::BadParameter, "no")),
            _ => Ok(()),
        })
        .map_err(|refusal| refusal.fault)
    };
    assert_eq!(read(r#"{"a":1}"#), Ok(()));
    assert_eq!(read(r#"{"bad":1,"a":1}"#), Err(Fault::BadParameter));
    assert_eq!(read(r#"{"bad":1,"a":1,}"#), Err(Fault::InvalidJson));
}

#[test]
fn integers_are_written_as_integers() {
    for (digits, integer) in [
        ("0", Some(0)),
        ("18446744073709551615", Some(u64::MAX)),
        ("18446744073709551616", None),
        ("-0", None),
        ("-1", None),
        ("1.0", None),
        ("1e3", None),
    ] {
        assert_eq!(Value::Number(digits).as_u64(), integer, "{digits}");
    }
}

#[test]
fn sentences_say_where() {
    for (text, part) in [
        ("", "the message is empty"),
        (r#"{"a":1"#, "ends too early, after 6 bytes"),
        (r#"{"a":1,}"#, "at byte 7: a key"),
        (r#"{"a":1e999}"#, "at byte 5: the number is larger"),
        (r#"{} {}"#, "at byte 3: nothing may follow"),
        (r#"{"a":"é\q"}"#, "at byte 8: an escape"),
    ] {
        let error = members(text, |_, _| ()).unwrap_err();
        assert!(error.message.contains(part), "{text}: {error:?}");
    }
}
