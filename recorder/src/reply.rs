//! Writes replies to `lightningd`, byte for byte.

use std::fmt;

/// An error code of JSON-RPC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// The message is not JSON.
    ParseError,
    /// The message is JSON, but not a valid request.
    InvalidRequest,
    /// The plugin has no such method.
    MethodNotFound,
    /// The request's parameters are not what the method takes.
    InvalidParams,
    /// The request is valid, and cannot be answered.
    Internal,
    /// A good `db_write` that could not be recorded.
    NotRecorded,
    /// A `db_write` that was recorded, and that an off-site copy did not get in time.
    NotShipped,
}

impl Code {
    /// The number on the wire.
    pub const fn number(self) -> i32 {
        match self {
            Self::ParseError => -32700,
            Self::InvalidRequest => -32600,
            Self::MethodNotFound => -32601,
            Self::InvalidParams => -32602,
            Self::Internal => -32603,
            // From the range JSON-RPC leaves to servers.
            Self::NotRecorded => -32000,
            Self::NotShipped => -32001,
        }
    }
}

/// Writes "continue", the only answer after which `lightningd` commits. `id` is the request's id as received, JSON and all.
pub fn write_continue(out: &mut Vec<u8>, id: &str) {
    out.clear();
    out.extend_from_slice(br#"{"jsonrpc":"2.0","id":"#);
    out.extend_from_slice(id.as_bytes());
    out.extend_from_slice(b",\"result\":{\"result\":\"continue\"}}\n\n");
}

/// Writes an error. As the answer to a `db_write` it makes `lightningd` print it and stop before it commits.
pub fn write_error(out: &mut Vec<u8>, id: Option<&str>, code: Code, message: &dyn fmt::Display) {
    let text = serde_json::Value::String(message.to_string());
    out.clear();
    out.extend_from_slice(
        format!(
            "{{\"jsonrpc\":\"2.0\",\"id\":{},\"error\":{{\"code\":{},\"message\":{text}}}}}\n\n",
            id.unwrap_or("null"),
            code.number()
        )
        .as_bytes(),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn continue_is_what_lightningd_expects_to_the_byte() {
        let mut out = b"something older".to_vec();
        write_continue(&mut out, "\"cln:db_write#21\"");
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "{\"jsonrpc\":\"2.0\",\"id\":\"cln:db_write#21\",\"result\":{\"result\":\"continue\"}}\n\n"
        );
    }

    #[test]
    fn an_error_is_one_message_with_any_text() {
        let mut out = Vec::new();
        write_error(&mut out, None, Code::NotRecorded, &"a \"quoted\"\n\npath");
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":-32000,\"message\":\"a \\\"quoted\\\"\\n\\npath\"}}\n\n"
        );
    }
}
