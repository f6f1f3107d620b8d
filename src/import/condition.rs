//! Conditions and variables of limitador: a small part of CEL, and the form
//! that was there before.
//!
//! | text | key | |
//! |---|---|---|
//! | `descriptors[0]['req.method'] == 'GET'` | `req.method` | |
//! | `descriptors[0].user_id` | `user_id` | a variable |
//! | `req.method == 'GET'`, `x == 5`, `x == some` | `req.method`, `x` | the older forms |
//! | `… && …` | | several in one |

/// A key of a descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key {
    /// Which descriptor of a request; 0 where that is not said.
    pub(super) descriptor: u32,
    /// Its name.
    pub(super) name: String,
}

/// What a limit asks of a key's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Comparison {
    pub(super) key: Key,
    /// It has to be this one, not another one.
    pub(super) is_equal: bool,
    pub(super) value: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Text(String),
    Sign(&'static str),
}

/// One side of a comparison.
enum Side {
    /// `path`: it names the list of descriptors.
    Key(Key, bool),
    Text(String),
}

struct Reader {
    tokens: Vec<Token>,
    at: usize,
}

/// The comparisons that a condition joins.
///
/// # Errors
/// Why it cannot be converted.
pub(super) fn comparisons(condition: &str) -> Result<Vec<Comparison>, String> {
    let mut reader = Reader::new(condition)?;
    let mut comparisons = vec![reader.comparison()?];
    while reader.takes("&&") {
        comparisons.push(reader.comparison()?);
    }
    reader.ends()?;
    Ok(comparisons)
}

/// The key that a variable names.
///
/// # Errors
/// Why it cannot be converted.
pub(super) fn variable(text: &str) -> Result<Key, String> {
    let mut reader = Reader::new(text)?;
    let side = reader.side()?;
    reader.ends()?;
    match side {
        Side::Key(key, _) => Ok(key),
        Side::Text(_) => Err("a variable names a key of a descriptor".to_owned()),
    }
}

// === impl Reader ===

impl Reader {
    fn new(text: &str) -> Result<Self, String> {
        Ok(Self {
            tokens: tokens(text)?,
            at: 0,
        })
    }

    fn comparison(&mut self) -> Result<Comparison, String> {
        let left = self.side()?;
        let is_equal = self.takes("==");
        if !is_equal && !self.takes("!=") {
            return Err("only == and != between a key and a text can be converted".to_owned());
        }
        let right = self.side()?;
        let (key, value) = match (left, right) {
            (Side::Key(key, _), Side::Text(value)) | (Side::Text(value), Side::Key(key, _)) => {
                (key, value)
            }
            // The form before CEL, in which texts had no quotes.
            (Side::Key(key, false), Side::Key(value, false)) => (key, value.name),
            _ => return Err("a key is compared with a text in quotes only".to_owned()),
        };
        Ok(Comparison {
            key,
            is_equal,
            value,
        })
    }

    fn side(&mut self) -> Result<Side, String> {
        match self.next() {
            Some(Token::Text(text)) => Ok(Side::Text(text)),
            Some(Token::Word(word)) if word == "descriptors" && self.takes("[") => {
                let index = self.word()?;
                let descriptor = index.parse();
                let descriptor =
                    descriptor.map_err(|_| format!("{index} is no number of a descriptor"))?;
                self.expect("]")?;
                let name = self.name_in_descriptor()?;
                Ok(Side::Key(Key { descriptor, name }, true))
            }
            Some(Token::Word(word)) => {
                let name = self.dotted(word)?;
                Ok(Side::Key(
                    Key {
                        descriptor: 0,
                        name,
                    },
                    false,
                ))
            }
            Some(Token::Sign(sign)) => Err(format!("{sign} cannot be converted here")),
            None => Err("it ends early".to_owned()),
        }
    }

    fn name_in_descriptor(&mut self) -> Result<String, String> {
        if self.takes(".") {
            return self.word();
        }
        self.expect("[")?;
        let Some(Token::Text(name)) = self.next() else {
            return Err("a key of a descriptor is a text in quotes".to_owned());
        };
        self.expect("]")?;
        Ok(name)
    }

    /// `req.method`: the key's name has the dots.
    fn dotted(&mut self, first: String) -> Result<String, String> {
        let mut name = first;
        while self.takes(".") {
            name = format!("{name}.{}", self.word()?);
        }
        Ok(name)
    }

    fn word(&mut self) -> Result<String, String> {
        match self.next() {
            Some(Token::Word(word)) => Ok(word),
            _ => Err("a name is missing".to_owned()),
        }
    }

    fn next(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.at).cloned();
        self.at += 1;
        token
    }

    fn takes(&mut self, sign: &str) -> bool {
        let is_it = matches!(self.tokens.get(self.at), Some(Token::Sign(found)) if *found == sign);
        self.at += usize::from(is_it);
        is_it
    }

    fn expect(&mut self, sign: &str) -> Result<(), String> {
        if self.takes(sign) {
            Ok(())
        } else {
            Err(format!("{sign} is missing"))
        }
    }

    fn ends(&self) -> Result<(), String> {
        match self.tokens.get(self.at) {
            None => Ok(()),
            Some(Token::Sign("||")) => {
                Err("alternatives (||) cannot be converted: write one limit for each".to_owned())
            }
            Some(_) => Err("only comparisons joined by && can be converted".to_owned()),
        }
    }
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    const SIGNS: [&str; 15] = [
        "==", "!=", ">=", "<=", "&&", "||", "[", "]", ".", "(", ")", ",", "<", ">", "!",
    ];
    let mut tokens = vec![];
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        if first == '\'' || first == '"' {
            let (content, tail) = rest[1..].split_once(first).ok_or("a text does not end")?;
            if content.contains('\\') {
                return Err("escapes in texts cannot be converted".to_owned());
            }
            tokens.push(Token::Text(content.to_owned()));
            rest = tail;
        } else if let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            tokens.push(Token::Sign(sign));
            rest = &rest[sign.len()..];
        } else {
            let is_part =
                |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '/' | ':' | '*' | '@');
            let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
            if end == 0 {
                return Err(format!("{first:?} cannot be converted"));
            }
            tokens.push(Token::Word(rest[..end].to_owned()));
            rest = &rest[end..];
        }
        rest = rest.trim_start();
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `0:key==value` for each comparison.
    fn told(condition: &str) -> Result<Vec<String>, String> {
        let comparisons = comparisons(condition)?;
        let tell = |it: &Comparison| {
            let sign = if it.is_equal { "==" } else { "!=" };
            format!("{}:{}{sign}{}", it.key.descriptor, it.key.name, it.value)
        };
        Ok(comparisons.iter().map(tell).collect())
    }

    #[test]
    fn conditions_are_read() {
        for (condition, expected) in [
            (
                "descriptors[0]['req.method'] == 'GET'",
                &["0:req.method==GET"][..],
            ),
            ("descriptors[1][\"a b\"] != \"\"", &["1:a b!="]),
            ("descriptors[0].user_id=='x y'", &["0:user_id==x y"]),
            ("'GET' == descriptors[0].m", &["0:m==GET"]),
            ("req.method == 'GET'", &["0:req.method==GET"]),
            ("x == 5", &["0:x==5"]),
            ("req_path == /json", &["0:req_path==/json"]),
            ("a == 'b' && descriptors[0].c != 'd'", &["0:a==b", "0:c!=d"]),
        ] {
            let expected: Vec<String> = expected.iter().map(|it| (*it).to_owned()).collect();
            assert_eq!(told(condition), Ok(expected), "{condition}");
        }
    }

    #[test]
    fn what_cannot_be_converted_says_why() {
        for (condition, expected) in [
            ("a == 'b' || a == 'c'", "alternatives (||)"),
            ("descriptors[0].a.startsWith('b')", "only == and !="),
            ("descriptors[0].a in ['b', 'c']", "only == and !="),
            ("descriptors[0].a == 5", "in quotes only"),
            ("descriptors[0].a == descriptors[1].a", "in quotes only"),
            ("a == 'it\\'s'", "escapes"),
            ("a == 'b", "does not end"),
            ("!(a == 'b')", "! cannot be converted here"),
            ("a ==", "ends early"),
            ("a >= 'b'", "only == and !="),
            ("descriptors[x].a == 'b'", "x is no number"),
            ("", "ends early"),
            ("a == 'b' c", "joined by &&"),
            ("a == 'b' + ü§", "'+' cannot"),
        ] {
            let why = told(condition).unwrap_err();
            assert!(why.contains(expected), "{condition}: {why}");
        }
    }

    #[test]
    fn variables_are_keys() {
        for (text, expected) in [
            ("descriptors[0]['user_id']", Ok((0, "user_id"))),
            ("descriptors[2].user", Ok((2, "user"))),
            ("req.user", Ok((0, "req.user"))),
            ("'user'", Err("a variable names a key of a descriptor")),
            (
                "size(user)",
                Err("only comparisons joined by && can be converted"),
            ),
        ] {
            let read = variable(text).map(|key| (key.descriptor, key.name));
            let expected = expected.map(|(at, name)| (at, name.to_owned()));
            assert_eq!(read, expected.map_err(str::to_owned), "{text}");
        }
    }
}
