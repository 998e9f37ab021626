//! Finds the kernels of a source and rewrites the two constructs that g++ cannot compile: `extern __shared__ T name[];` and inline
//! PTX.
//!
//! The text is preprocessed: comments are removed, conditions are evaluated and macros are expanded.

/// The declaration of a kernel.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Declared {
    pub(super) name: String,
    /// The first argument of `__launch_bounds__`.
    pub(super) max_threads: Option<String>,
}

/// The text for g++ and its kernels.
pub(super) fn rewrite(source: &str) -> Result<(String, Vec<Declared>), String> {
    let mut text = String::with_capacity(source.len());
    let mut kernels: Vec<Declared> = Vec::new();
    let mut rest = source;
    while let Some(token) = next(rest) {
        let (before, behind) = rest.split_at(token.len());
        match token {
            "extern" if word(behind).0 == "__shared__" => {
                let (declaration, after) =
                    behind.split_once(';').ok_or("extern __shared__ without a ;")?;
                text.push_str(&dynamic_shared(declaration)?);
                rest = after;
                continue;
            }
            "__global__" => {
                let kernel = declared(behind)?;
                if kernels.iter().all(|known| known.name != kernel.name) {
                    kernels.push(kernel);
                }
            }
            "asm" => {
                let (call, after) = inline_ptx(behind)?;
                text.push_str(&call);
                rest = after;
                continue;
            }
            _ => {}
        }
        text.push_str(before);
        rest = behind;
    }
    Ok((text, kernels))
}

/// The next token: a word, a string, a line of the preprocessor, or one other character.
fn next(text: &str) -> Option<&str> {
    let first = text.chars().next()?;
    let len = if first == '"' || first == '\'' {
        quoted(text, first)
    } else if first == '#' {
        text.find('\n').unwrap_or(text.len())
    } else if is_word(first) {
        text.find(|c| !is_word(c)).unwrap_or(text.len())
    } else {
        first.len_utf8()
    };
    Some(&text[..len])
}

/// The length of a quoted string, including the quotes.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The first word after white space, and the rest of the text.
fn word(text: &str) -> (&str, &str) {
    let text = text.trim_start();
    text.split_at(text.find(|c| !is_word(c)).unwrap_or(text.len()))
}

/// The contents of the parentheses at the start of `text`, and the rest of the text.
fn parenthesis(text: &str) -> Option<(&str, &str)> {
    let inside = text.trim_start().strip_prefix('(')?;
    let (mut depth, mut at) = (1, 0);
    while let Some(token) = next(&inside[at..]) {
        match token {
            "(" => depth += 1,
            ")" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some((&inside[..at], &inside[at + 1..]));
        }
        at += token.len();
    }
    None
}

/// Parses the declaration after `__global__`: bounds, `void`, name.
fn declared(text: &str) -> Result<Declared, String> {
    let (mut rest, mut max_threads) = (text, None);
    loop {
        let (token, behind) = word(rest);
        rest = behind;
        match token {
            "__launch_bounds__" => {
                let (bounds, behind) =
                    parenthesis(rest).ok_or("__launch_bounds__ without arguments")?;
                max_threads = bounds.split(',').next().map(|bound| bound.trim().to_owned());
                rest = behind;
            }
            "__attribute__" => rest = parenthesis(rest).ok_or("__attribute__ without arguments")?.1,
            "void" | "static" | "inline" | "__forceinline__" | "const" => {}
            "" => return Err("__global__ without a function".to_owned()),
            name => return Ok(Declared { name: name.to_owned(), max_threads }),
        }
    }
}

/// Rewrites ` __shared__ __align__(16) unsigned char bytes[]` to a pointer to the dynamic shared memory of the block.
fn dynamic_shared(declaration: &str) -> Result<String, String> {
    let whole = declaration.trim().strip_prefix("__shared__").unwrap_or(declaration);
    let (declared, dimension) =
        whole.split_once('[').ok_or("extern __shared__ of something that is no array")?;
    if dimension.trim() != "]" {
        return Err(format!("extern __shared__{whole}: the array must have one dimension, []"));
    }
    let mut declared = declared.trim();
    while let Some(after) = declared.strip_prefix("__align__").or(declared.strip_prefix("alignas"))
    {
        declared = parenthesis(after).ok_or("an alignment without a number")?.1.trim();
    }
    let at = declared.rfind(|c| !is_word(c)).ok_or("extern __shared__ without a type")? + 1;
    let (kind, name) = declared.split_at(at);
    // The declaration may also be at file scope.
    Ok(format!(
        "static {kind}* const& {name} = reinterpret_cast<{kind}* const&>(standin::dynamic_shared);"
    ))
}

/// Rewrites `asm volatile("cvt.rn.bf16.f32 %0, %1;" : "=h"(out) : "f"(in));` to `standin_ptx_cvt_rn_bf16_f32(out, in)`.
/// The header defines the supported instructions; others do not compile.
fn inline_ptx(text: &str) -> Result<(String, &str), String> {
    let text = text.trim_start();
    let text = text.strip_prefix("volatile").unwrap_or(text);
    let (inside, after) = parenthesis(text).ok_or("asm without parentheses")?;
    let mut parts = inside.splitn(4, ':');
    let instruction = parts.next().unwrap_or_default().replace(['"', '\n', '\t'], "");
    let instruction = instruction.trim().trim_end_matches(';').trim();
    let mnemonic = instruction.split_whitespace().next().unwrap_or_default();
    if instruction.contains(';') || instruction.contains('{') || mnemonic.is_empty() {
        return Err(format!("asm(\"{instruction}\"): engine A takes one plain instruction"));
    }
    let operands: Vec<&str> = parts.take(2).flat_map(operands).collect();
    let name: String = mnemonic.chars().map(|c| if is_word(c) { c } else { '_' }).collect();
    Ok((format!("standin_ptx_{name}({})", operands.join(", ")), after))
}

/// The expressions in `"=h"(a), "f"(b)`.
fn operands(list: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = list;
    while let Some(at) = rest.find('(') {
        let Some((inside, after)) = parenthesis(&rest[at..]) else { break };
        found.push(inside.trim());
        rest = after;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_found_with_their_bounds() {
        let source = "extern \"C\" __global__ void one(int a) {}\n\
            extern \"C\" __global__ void __launch_bounds__(128 * 2, 4) two() {}\n\
            extern \"C\" __global__ __launch_bounds__(64) void three();\n\
            const char* no = \"__global__ void four\";";
        let (text, kernels) = rewrite(source).unwrap();
        let found: Vec<_> =
            kernels.iter().map(|k| (k.name.as_str(), k.max_threads.as_deref())).collect();
        assert_eq!(found, [("one", None), ("two", Some("128 * 2")), ("three", Some("64"))]);
        assert_eq!(text, source);
    }

    #[test]
    fn dynamic_shared_memory_becomes_a_pointer() {
        let (text, _) =
            rewrite("extern __shared__ __align__(16) unsigned char bytes[]; int x;").unwrap();
        assert_eq!(
            text,
            "static unsigned char * const& bytes = reinterpret_cast<unsigned char * const&>(standin::dynamic_shared); int x;"
        );
        assert!(rewrite("extern __shared__ int x[2];").is_err());
    }

    #[test]
    fn inline_ptx_becomes_a_call() {
        let (text, _) =
            rewrite("asm volatile(\"cvt.rn.bf16.f32 %0, %1;\" : \"=h\"(r[0]) : \"f\"(f(x, 1)));")
                .unwrap();
        assert_eq!(text, "standin_ptx_cvt_rn_bf16_f32(r[0], f(x, 1));");
        assert!(rewrite("asm(\"{ add.s32 %0, 1; }\" : \"=r\"(x));").is_err());
    }
}
