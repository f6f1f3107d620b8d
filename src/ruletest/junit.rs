//! What came of a run as JUnit's XML, which shows of test results read.

use super::{FileOutcome, Outcome};

/// The document: a suite for each file.
pub(super) fn document(outcome: &Outcome) -> String {
    let tests = outcome.passed() + outcome.failed() + outcome.broken();
    let mut xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <testsuites name=\"ratekeeper\" tests=\"{tests}\" failures=\"{}\" errors=\"{}\">\n",
        outcome.failed(),
        outcome.broken()
    );
    for file in &outcome.files {
        xml.push_str(&suite(file));
    }
    xml.push_str("</testsuites>\n");
    xml
}

fn suite(outcome: &FileOutcome) -> String {
    let file = escape(&outcome.file);
    let tests = match &outcome.tests {
        Ok(tests) => tests,
        Err(broken) => {
            let text = escape(&broken.told());
            return format!(
                "  <testsuite name=\"{file}\" tests=\"1\" failures=\"0\" errors=\"1\">\n    \
                 <testcase classname=\"{file}\" name=\"(the file)\" file=\"{file}\">\n      \
                 <error message=\"no test of the file could be run\">{text}</error>\n    \
                 </testcase>\n  </testsuite>\n"
            );
        }
    };
    let failed = tests.iter().filter(|test| !test.passed()).count();
    let mut xml = format!(
        "  <testsuite name=\"{file}\" tests=\"{}\" failures=\"{failed}\" errors=\"0\">\n",
        tests.len()
    );
    for test in tests {
        let (name, line) = (escape(&test.name), test.line);
        let head = format!(
            "    <testcase classname=\"{file}\" name=\"{name}\" file=\"{file}\" line=\"{line}\""
        );
        let failures = test.failures.iter();
        let told: Vec<String> = failures.map(|it| it.told(&outcome.file, test)).collect();
        xml.push_str(&head);
        match &*told {
            [] => xml.push_str("/>\n"),
            told => {
                let steps = match told.len() {
                    1 => "a step was".to_owned(),
                    steps => format!("{steps} steps were"),
                };
                let text = escape(&told.join("\n"));
                xml.push_str(&format!(
                    ">\n      <failure message=\"{steps} not answered as expected\">{text}</failure>\n    \
                     </testcase>\n"
                ));
            }
        }
    }
    xml.push_str("  </testsuite>\n");
    xml
}

/// Text for content and attributes. XML 1.0 has no place at all for most
/// control characters.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&apos;"),
            '\n' | '\t' => escaped.push(char),
            '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            char if char.is_control() => escaped.push('\u{fffd}'),
            char => escaped.push(char),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_break_the_document() {
        for (text, expected) in [
            ("plain ä", "plain ä"),
            ("<a b='c'>&\"", "&lt;a b=&apos;c&apos;&gt;&amp;&quot;"),
            ("]]>", "]]&gt;"),
            ("a\0\u{1b}\r\u{ffff}b", "a\u{fffd}\u{fffd}\u{fffd}\u{fffd}b"),
            ("a\n\tb", "a\n\tb"),
        ] {
            assert_eq!(escape(text), expected, "{text:?}");
        }
    }
}
