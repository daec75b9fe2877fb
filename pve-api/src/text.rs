//! Text that callers write into columns: what they can not hold, or nobody could read, is refused.

use crate::error::ApiError;

/// Text of one line, that a column holds.
pub(crate) fn line(field: &'static str, text: &str, longest: usize) -> Result<String, ApiError> {
    let what = if text.trim().is_empty() {
        "is empty; write a value, or null where there may be none".to_owned()
    } else if text.chars().any(char::is_control) {
        "holds a control character".to_owned()
    } else if text.chars().count() > longest {
        format!("is too long; it has at most {longest} characters")
    } else {
        return Ok(text.to_owned());
    };
    Err(ApiError::invalid(field, format!("{field} {what}")))
}

/// Text of several lines; as long as a body may be, a column holds it.
pub(crate) fn text(field: &'static str, text: &str) -> Result<String, ApiError> {
    if text.is_empty() {
        let message = format!("{field} is empty; write a text, or null for none");
        return Err(ApiError::invalid(field, message));
    }
    if text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) {
        let message = format!("{field} holds a control character other than tab and line break");
        return Err(ApiError::invalid(field, message));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_no_breaks_and_a_text_has() {
        assert!(line("env", "prod", 4).is_ok() && line("env", "äöüß", 4).is_ok());
        for wrong in ["", " ", "a\nb", "a\0", "prods"] {
            assert!(line("env", wrong, 4).is_err(), "{wrong:?}");
        }
        assert!(text("describes", "a\r\n\tb").is_ok());
        for wrong in ["", "a\0", "a\u{1b}[0m"] {
            assert!(text("describes", wrong).is_err(), "{wrong:?}");
        }
    }
}
