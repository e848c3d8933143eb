//! Label selectors: the text grammar (`a=b,c!=d,e in (f,g),!h,i>1`) and the `metav1.LabelSelector` object.

use serde_json::Value;

use super::{Operator, Requirement, Selector};
use crate::status::Status;
use crate::validate::names;

/// The requirements of a text; an empty text has none.
pub(super) fn parse(text: &str) -> Result<Vec<Requirement>, Status> {
    let mut parser = Parser { tokens: lex(text), at: 0 };
    let mut found = Vec::new();
    if parser.peek() == &Token::End {
        return Ok(found);
    }
    loop {
        found.push(parser.requirement().map_err(|why| unable(&why))?);
        match parser.next() {
            Token::End => return Ok(found),
            Token::Comma => {}
            other => return Err(unable(&format!("found '{other}', expected: ',' or 'end of string'"))),
        }
    }
}

fn unable(why: &str) -> Status {
    Status::bad_request(format!("unable to parse requirement: {why}"))
}

/// A `metav1.LabelSelector`; `None` selects nothing, an empty one everything.
pub(super) fn from_json(json: Option<&Value>) -> Result<Option<Selector>, Status> {
    let Some(json) = json.filter(|json| !json.is_null()) else { return Ok(None) };
    let mut labels = Vec::new();
    if let Some(map) = json.get("matchLabels").and_then(Value::as_object) {
        for (key, value) in map {
            labels.push(checked(key, "in", vec![value.as_str().unwrap_or_default().to_owned()])?);
        }
    }
    for expression in json.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
        let text = |field: &str| expression.get(field).and_then(Value::as_str).unwrap_or_default();
        let values = expression.get("values").and_then(Value::as_array);
        let values = values.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
        let operator = match text("operator") {
            "In" => "in",
            "NotIn" => "notin",
            "Exists" => "exists",
            "DoesNotExist" => "!",
            other => return Err(Status::bad_request(format!("{other:?} is not a valid label selector operator"))),
        };
        labels.push(checked(text("key"), operator, values)?);
    }
    Ok(Some(Selector { labels, fields: Vec::new() }))
}

fn checked(key: &str, operator: &str, values: Vec<String>) -> Result<Requirement, Status> {
    requirement(key, operator, values).map_err(Status::bad_request)
}

fn requirement(key: &str, operator: &str, values: Vec<String>) -> Result<Requirement, String> {
    if let Some(why) = names::qualified_name(key).into_iter().next() {
        return Err(format!("key: Invalid value: {key:?}: {why}"));
    }
    for (index, value) in values.iter().enumerate() {
        if let Some(why) = names::label_value(value).into_iter().next() {
            return Err(format!("values[{index}][{key}]: Invalid value: {value:?}: {why}"));
        }
    }
    let none = |values: &[String]| {
        if values.is_empty() {
            Ok(())
        } else {
            Err(format!("values: Invalid value: {values:?}: values set must be empty for exists and does not exist"))
        }
    };
    let some = |values: Vec<String>| {
        if values.is_empty() {
            Err("values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty".to_owned())
        } else {
            Ok(values)
        }
    };
    let bound = |values: &[String]| match values {
        [one] => one.parse().map_err(|_| {
            format!("values[0]: Invalid value: {one:?}: for 'Gt', 'Lt' operators, the value must be an integer")
        }),
        _ => Err("values: for 'Gt', 'Lt' operators, exactly one value is required".to_owned()),
    };
    let operator = match operator {
        "=" | "==" | "in" => Operator::In(some(values)?),
        "!=" | "notin" => Operator::NotIn(some(values)?),
        "exists" => none(&values).map(|()| Operator::Exists)?,
        "!" => none(&values).map(|()| Operator::DoesNotExist)?,
        ">" => Operator::Gt(bound(&values)?),
        _ => Operator::Lt(bound(&values)?),
    };
    Ok(Requirement { key: key.to_owned(), operator })
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    /// `=`, `==`, `!=`, `!`, `>`, `<`.
    Sign(&'static str),
    Open,
    Close,
    Comma,
    End,
}

impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Token::Word(word) => word,
            Token::Sign(sign) => sign,
            Token::Open => "(",
            Token::Close => ")",
            Token::Comma => ",",
            Token::End => "",
        })
    }
}

fn lex(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let sign = ["==", "!=", "=", "!", ">", "<"].into_iter().find(|sign| rest.starts_with(sign));
        let length = match (first, sign) {
            (_, Some(sign)) => {
                tokens.push(Token::Sign(sign));
                sign.len()
            }
            ('(', _) => {
                tokens.push(Token::Open);
                1
            }
            (')', _) => {
                tokens.push(Token::Close);
                1
            }
            (',', _) => {
                tokens.push(Token::Comma);
                1
            }
            _ => {
                let end = rest.find(|c: char| c.is_whitespace() || "=!<>(),".contains(c)).unwrap_or(rest.len());
                tokens.push(Token::Word(rest[..end].to_owned()));
                end
            }
        };
        rest = rest[length..].trim_start();
    }
    tokens
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    fn peek(&self) -> &Token {
        self.tokens.get(self.at).unwrap_or(&Token::End)
    }

    fn next(&mut self) -> Token {
        let token = self.peek().clone();
        self.at += 1;
        token
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        if self.peek() == &Token::Sign("!") {
            self.next();
            let key = self.word()?;
            return requirement(&key, "!", Vec::new());
        }
        let key = self.word()?;
        match self.peek().clone() {
            Token::Comma | Token::End => requirement(&key, "exists", Vec::new()),
            Token::Sign(sign) if sign != "!" => {
                self.next();
                let value = match self.peek() {
                    Token::Word(_) => self.word()?,
                    Token::Comma | Token::End => String::new(),
                    other => return Err(format!("found '{other}', expected: identifier")),
                };
                requirement(&key, sign, vec![value])
            }
            Token::Word(word) if word == "in" || word == "notin" => {
                self.next();
                let values = self.values()?;
                requirement(&key, &word, values)
            }
            other => Err(format!("found '{other}', expected: in, notin, =, ==, !=, >, <")),
        }
    }

    fn word(&mut self) -> Result<String, String> {
        match self.next() {
            Token::Word(word) => Ok(word),
            other => Err(format!("found '{other}', expected: !, identifier, or 'end of string'")),
        }
    }

    fn values(&mut self) -> Result<Vec<String>, String> {
        if self.next() != Token::Open {
            return Err("found no '(' after 'in' or 'notin', expected: '('".to_owned());
        }
        let mut values = Vec::new();
        loop {
            // `(a,)` and `()` mean a set with the empty value.
            let value = if let Token::Word(_) = self.peek() { self.word()? } else { String::new() };
            if !values.contains(&value) {
                values.push(value);
            }
            match self.next() {
                Token::Comma => {}
                Token::Close => break,
                other => return Err(format!("found '{other}', expected: ',' or ')'")),
            }
        }
        values.sort();
        Ok(values)
    }
}
