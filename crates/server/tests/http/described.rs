//! Compares every answer that a test receives with the served OpenAPI document: its route, method,
//! status, and each field of its JSON.

use std::sync::LazyLock;

use serde_json::{Map, Value};

static DOCUMENT: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(vfs_sync_server::OPENAPI).unwrap());

/// Follows the references of a part of the document.
pub(crate) fn resolved(mut part: &'static Value) -> &'static Value {
    while let Some(Value::String(reference)) = part.get("$ref") {
        part = DOCUMENT.pointer(reference.trim_start_matches('#')).expect("a reference");
    }
    part
}

/// Lists the routes of the document with their methods.
pub(crate) fn routes() -> impl Iterator<Item = (&'static str, &'static Map<String, Value>)> {
    let paths = DOCUMENT["paths"].as_object().unwrap();
    paths.iter().map(|(path, methods)| (path.as_str(), methods.as_object().unwrap()))
}

/// Returns the methods of the route that serves `path`: of several, the one with fewest parameters.
fn route_of(path: &str) -> Option<(&'static str, &'static Map<String, Value>)> {
    let steps: Vec<&str> = path.split('/').collect();
    let fits = |route: &str| {
        let route: Vec<&str> = route.split('/').collect();
        let fits = |(own, given): (&&str, &&str)| own == given || own.starts_with('{');
        route.len() == steps.len() && route.iter().zip(&steps).all(fits)
    };
    routes().filter(|(route, _)| fits(route)).min_by_key(|(route, _)| route.matches('{').count())
}

/// Returns whether the operator's listener alone has a route.
pub(crate) fn is_of_operators(methods: &Map<String, Value>) -> bool {
    let says = |one: &Value| one["description"].as_str().is_some_and(|text| text.ends_with(ALONE));
    methods.values().any(says)
}

/// The end of the description of a call that the public listener does not have.
const ALONE: &str = "The operator's listener alone has this call.";

/// An answer, as far as the document describes it.
pub(crate) struct Seen<'a> {
    pub(crate) method: &'a str,
    /// The path with its query.
    pub(crate) target: &'a str,
    pub(crate) status: u16,
    pub(crate) content_type: &'a str,
    pub(crate) body: &'a [u8],
}

/// Returns what the document does not say about an answer.
pub(crate) fn undocumented(seen: &Seen<'_>) -> Option<String> {
    let Seen { method, target, status, content_type, body } = seen;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let wrong = |problem: String| Some(format!("{method} {target}: {status}: {problem}"));
    let json = || serde_json::from_slice::<Value>(body).map_err(|error| error.to_string());
    let is_error = |status: u16, code: &str| {
        *seen.method == *"HEAD"
            || (*content_type == "application/json"
                && json().is_ok_and(|body| body["code"] == code)
                && seen.status == status)
    };
    let Some((route, methods)) = route_of(path) else {
        let none = is_error(404, "not_found") || *status == 429;
        return if none { None } else { wrong("the route is not described".into()) };
    };
    // A last step that is empty is no parameter.
    if path.ends_with('/') && is_error(404, "not_found") {
        return None;
    }
    if is_of_operators(methods) && is_error(404, "not_found") {
        return None;
    }
    let Some(operation) = methods.get(&method.to_ascii_lowercase()) else {
        // A route admits the caller before it looks at the method.
        let admission = [400, 401, 403, 405, 426, 429, 503].contains(status);
        // The methods of CORS and tus.
        let known = admission || *method == "OPTIONS" || *method == "HEAD";
        // A blob may have the name of a call.
        let blob = matches!(
            route,
            "/v1/vfs/blobs/stage" | "/v1/vfs/blobs/batch" | "/v1/vfs/blobs/uploads"
        );
        return if known || blob { None } else { wrong("the method is not described".into()) };
    };
    let Some(response) = operation["responses"].get(status.to_string()) else {
        return wrong("the status is not described".into());
    };
    if (200..300).contains(status) {
        let described = |name: &str| {
            let parameters = operation["parameters"].as_array().into_iter().flatten();
            parameters.map(resolved).any(|one| one["in"] == "query" && one["name"] == name)
        };
        for name in query.split('&').filter_map(|pair| pair.split('=').next()) {
            if !name.is_empty() && !described(name) {
                return wrong(format!("the parameter {name} is not described"));
            }
        }
    }
    if body.is_empty() || *method == "HEAD" {
        return None;
    }
    let response = resolved(response);
    let content = &response["content"];
    let Some(content) = content.get(*content_type).or_else(|| content.get("*/*")) else {
        return wrong(format!("{content_type:?} is not described"));
    };
    if *content_type != "application/json" {
        return None;
    }
    match json() {
        Err(error) => wrong(format!("the body is no JSON: {error}")),
        Ok(body) => {
            let problem = problem(&content["schema"], &body, "body", true)?;
            wrong(problem)
        }
    }
}

fn is_of_type(name: &str, value: &Value) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "number" => value.is_number(),
        "integer" => value.is_i64() || value.is_u64(),
        other => panic!("the type {other} is unknown"),
    }
}

/// Collects the properties of a schema and of all its parts, as far as they apply together.
fn properties(schema: &'static Value, into: &mut Vec<&'static str>) -> bool {
    let schema = resolved(schema);
    let mut open = schema.get("additionalProperties").is_some();
    open |= schema["type"] == "object"
        && schema.get("properties").is_none()
        && schema.get("allOf").is_none();
    into.extend(
        schema["properties"].as_object().into_iter().flatten().map(|(name, _)| name.as_str()),
    );
    for part in schema["allOf"].as_array().into_iter().flatten() {
        open |= properties(part, into);
    }
    open
}

/// Returns what makes `value` not one of `schema`. If it is `closed`, members that the schema does
/// not name are wrong.
pub(crate) fn problem(
    schema: &'static Value,
    value: &Value,
    at: &str,
    closed: bool,
) -> Option<String> {
    let schema = resolved(schema);
    let wrong = |what: String| Some(format!("{at} {what}: {value}"));
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    if !types.is_empty() && !types.iter().any(|name| is_of_type(name, value)) {
        return wrong(format!("is not of type {types:?}"));
    }
    if schema.get("const").is_some_and(|only| only != value) {
        return wrong("is not the constant".into());
    }
    if schema["enum"].as_array().is_some_and(|all| !all.contains(value)) {
        return wrong("is not in the enumeration".into());
    }
    if let Some(alternatives) = schema["oneOf"].as_array() {
        let problems: Vec<String> =
            alternatives.iter().filter_map(|one| problem(one, value, at, closed)).collect();
        if problems.len() == alternatives.len() {
            return wrong(format!("fits no alternative ({})", problems.join("; ")));
        }
    }
    for part in schema["allOf"].as_array().into_iter().flatten() {
        if let Some(problem) = problem(part, value, at, false) {
            return Some(problem);
        }
    }
    if let Some(text) = value.as_str() {
        let length = text.chars().count() as u64;
        let beyond = |name: &str, of: fn(u64, u64) -> bool| {
            schema[name].as_u64().is_some_and(|bound| of(length, bound))
        };
        if beyond("minLength", |length, least| length < least)
            || beyond("maxLength", |length, most| length > most)
        {
            return wrong("is of another length".into());
        }
    }
    if let Some(number) = value.as_i64()
        && (schema["minimum"].as_i64().is_some_and(|least| number < least)
            || schema["maximum"].as_i64().is_some_and(|most| number > most))
    {
        return wrong("is out of range".into());
    }
    if let Some(elements) = value.as_array() {
        if schema["maxItems"].as_u64().is_some_and(|most| elements.len() as u64 > most) {
            return wrong("has too many elements".into());
        }
        if let Some(of) = schema.get("items") {
            for (index, element) in elements.iter().enumerate() {
                if let Some(problem) = problem(of, element, &format!("{at}[{index}]"), closed) {
                    return Some(problem);
                }
            }
        }
    }
    let members = value.as_object()?;
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !members.contains_key(name) {
            return wrong(format!("lacks {name}"));
        }
    }
    let mut named = Vec::new();
    let open = properties(schema, &mut named) || schema.get("oneOf").is_some();
    for (name, member) in members {
        let place = format!("{at}.{name}");
        let described = schema["properties"].get(name);
        let other = schema.get("additionalProperties").filter(|other| other.is_object());
        if let Some(of) = described.or(other) {
            if let Some(problem) = problem(of, member, &place, closed) {
                return Some(problem);
            }
        } else if closed && !open && !named.contains(&name.as_str()) {
            return wrong(format!("has {name}, which is not described"));
        }
    }
    None
}

#[test]
fn what_the_document_does_not_say_is_found() {
    let found = |method: &str, target: &str, status: u16, body: &str| {
        let content_type = if body.is_empty() { "" } else { "application/json" };
        undocumented(&Seen { method, target, status, content_type, body: body.as_bytes() })
    };
    let groups = r#"{"groups": [], "organizations": ["a"]}"#;
    assert_eq!(found("GET", "/v1/vfs/groups", 200, groups), None);
    for (method, target, status, body) in [
        ("GET", "/v1/vfs/nothing", 200, groups),
        ("POST", "/v1/vfs/groups", 200, groups),
        ("GET", "/v1/vfs/groups", 418, groups),
        ("GET", "/v1/vfs/groups", 201, groups),
        ("GET", "/v1/vfs/groups?all=1", 200, groups),
        ("GET", "/v1/vfs/groups", 200, r#"{"groups": []}"#),
        ("GET", "/v1/vfs/groups", 200, r#"{"groups": [], "organizations": [""]}"#),
        ("GET", "/v1/vfs/groups", 200, r#"{"groups": [], "organizations": [], "more": 1}"#),
        ("GET", "/v1/vfs/groups", 200, r#"{"groups": [], "organizations": 7}"#),
        ("GET", "/v1/vfs/groups", 401, r#"{"error": "no", "code": "unauthorized"}"#),
        ("GET", "/v1/vfs/groups", 200, "no JSON"),
    ] {
        assert!(found(method, target, status, body).is_some(), "{method} {target} {status} {body}");
    }
}
