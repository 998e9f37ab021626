//! Modules of a crate: their files, what they define, what they import and which paths they name.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::lex::{Token, tokens};

/// A module, in a file of its own or inline. Code that is only compiled for tests is left out.
#[derive(Debug)]
pub(crate) struct Module {
    pub(crate) file: PathBuf,
    pub(crate) parent: Option<usize>,
    pub(crate) children: BTreeMap<String, usize>,
    pub(crate) imports: Vec<Import>,
    /// Paths of two or more segments in code, such as `child::function`.
    pub(crate) paths: BTreeSet<Vec<String>>,
    /// Identifiers that stand alone in code.
    pub(crate) words: BTreeSet<String>,
    pub(crate) defined: BTreeSet<String>,
    /// The folder in which files of child modules are.
    folder: PathBuf,
}

/// One leaf of a `use` declaration.
#[derive(Clone, Debug)]
pub(crate) struct Import {
    pub(crate) path: Vec<String>,
    /// The name that it has here; `*` for a glob.
    pub(crate) name: String,
    /// Whether other modules can name it through this one.
    pub(crate) public: bool,
}

/// All modules of the crate with this root file, the root first.
pub(crate) fn of_crate(root: &Path) -> Vec<Module> {
    let mut reader = Reader { modules: Vec::new() };
    let folder = root.parent().expect("a file is in a folder").to_owned();
    reader.file(root.to_owned(), folder, None);
    reader.modules
}

struct Reader {
    modules: Vec<Module>,
}

/// What the attributes before an item say.
#[derive(Default)]
struct Attributes {
    test: bool,
    path: Option<String>,
}

impl Reader {
    fn file(&mut self, file: PathBuf, folder: PathBuf, parent: Option<usize>) -> usize {
        let source =
            fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let id = self.add(file, folder, parent);
        self.body(id, &mut Cursor { tokens: &tokens(&source), at: 0 });
        id
    }

    fn add(&mut self, file: PathBuf, folder: PathBuf, parent: Option<usize>) -> usize {
        self.modules.push(Module {
            file,
            parent,
            folder,
            children: BTreeMap::new(),
            imports: Vec::new(),
            paths: BTreeSet::new(),
            words: BTreeSet::new(),
            defined: BTreeSet::new(),
        });
        self.modules.len() - 1
    }

    /// Reads up to the `}` that closes the module, or to the end of the file.
    fn body(&mut self, id: usize, cursor: &mut Cursor<'_>) {
        let (mut depth, mut public) = (0, false);
        let mut attributes = Attributes::default();
        while let Some(token) = cursor.next() {
            match token {
                Token::Punct('#') => {
                    self.attribute(id, cursor, &mut attributes);
                    continue;
                }
                Token::Punct('{') => depth += 1,
                Token::Punct('}') if depth == 0 => return,
                Token::Punct('}') => depth -= 1,
                Token::Ident(word) if word == "pub" => {
                    public = true;
                    cursor.skip_parentheses();
                    continue;
                }
                Token::Ident(_) if attributes.test => cursor.skip_item(),
                Token::Ident(word) if word == "use" => {
                    let imports = &mut self.modules[id].imports;
                    cursor.use_tree(&mut Vec::new(), public, imports);
                }
                Token::Ident(word) if word == "mod" => self.module(id, cursor, &attributes),
                Token::Ident(word) => self.word(id, word, cursor),
                Token::PathSep => cursor.skip_path(),
                Token::Punct(_) | Token::Text(_) => {}
            }
            public = false;
            attributes = Attributes::default();
        }
    }

    /// What follows a `#`. The paths in an attribute are imports like others: `#[serde(with = "..")]`
    /// aside, `#[arg(value_parser = parse::size)]` calls a function.
    fn attribute(&mut self, id: usize, cursor: &mut Cursor<'_>, attributes: &mut Attributes) {
        let inner = cursor.take(&Token::Punct('!'));
        if !cursor.take(&Token::Punct('[')) {
            return;
        }
        let begin = cursor.at;
        cursor.skip_to_close('[', ']');
        let content = &cursor.tokens[begin..cursor.at];
        match content {
            // An inner attribute is about the module, not about the next item.
            _ if inner => {}
            [Token::Ident(name), _, Token::Ident(what), Token::Punct(')'), _]
                if name == "cfg" && what == "test" =>
            {
                attributes.test = true;
            }
            [Token::Ident(name), _, Token::Text(path), _] if name == "path" => {
                attributes.path = Some(path.clone());
            }
            _ => {
                let mut inside = Cursor { tokens: content, at: 0 };
                while let Some(token) = inside.next() {
                    if let Token::Ident(word) = token {
                        self.word(id, word, &mut inside);
                    }
                }
            }
        }
    }

    /// `mod name;` or `mod name { ... }`
    fn module(&mut self, id: usize, cursor: &mut Cursor<'_>, attributes: &Attributes) {
        let Some(Token::Ident(name)) = cursor.next() else { return };
        let folder = self.modules[id].folder.clone();
        let file = self.modules[id].file.clone();
        let child = if cursor.next() == Some(&Token::Punct('{')) {
            let child = self.add(file, folder.join(name), Some(id));
            self.body(child, cursor);
            child
        } else if let Some(path) = &attributes.path {
            let parent = file.parent().expect("a file is in a folder");
            let file = parent.join(path);
            let folder = file.parent().expect("a file is in a folder").to_owned();
            self.file(file, folder, Some(id))
        } else {
            let (flat, nested) = (folder.join(format!("{name}.rs")), folder.join(name));
            let file = if flat.exists() { flat } else { nested.join("mod.rs") };
            self.file(file, nested, Some(id))
        };
        self.modules[id].children.insert(name.clone(), child);
    }

    /// A word of code: the name of a definition, a path, or neither.
    fn word(&mut self, id: usize, word: &str, cursor: &mut Cursor<'_>) {
        const DEFINES: [&str; 8] =
            ["fn", "struct", "enum", "trait", "const", "static", "type", "union"];
        let module = &mut self.modules[id];
        if word == "macro_rules" && cursor.take(&Token::Punct('!')) || DEFINES.contains(&word) {
            if let Some(Token::Ident(name)) = cursor.peek() {
                module.defined.insert(name.clone());
            }
            return;
        }
        let mut path = vec![word.to_owned()];
        while let (Some(Token::PathSep), Some(Token::Ident(next))) =
            (cursor.peek(), cursor.tokens.get(cursor.at + 1))
        {
            path.push(next.clone());
            cursor.at += 2;
        }
        if path.len() > 1 {
            module.paths.insert(path);
        } else {
            module.words.insert(word.to_owned());
        }
    }
}

struct Cursor<'a> {
    tokens: &'a [Token],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn peek(&self) -> Option<&'a Token> {
        self.tokens.get(self.at)
    }

    fn next(&mut self) -> Option<&'a Token> {
        let token = self.peek();
        self.at += 1;
        token
    }

    fn take(&mut self, token: &Token) -> bool {
        let taken = self.peek() == Some(token);
        self.at += usize::from(taken);
        taken
    }

    /// Skips to after the bracket that closes one that was just read.
    fn skip_to_close(&mut self, open: char, close: char) {
        let mut depth = 1;
        while depth > 0
            && let Some(token) = self.next()
        {
            depth += i32::from(*token == Token::Punct(open));
            depth -= i32::from(*token == Token::Punct(close));
        }
    }

    /// The `(crate)` of `pub(crate)`.
    fn skip_parentheses(&mut self) {
        if self.take(&Token::Punct('(')) {
            self.skip_to_close('(', ')');
        }
    }

    /// The rest of an item: to its `;`, or to the end of its block.
    fn skip_item(&mut self) {
        while let Some(token) = self.next() {
            match token {
                Token::Punct(';') => return,
                Token::Punct('{') => return self.skip_to_close('{', '}'),
                _ => {}
            }
        }
    }

    /// What follows `::` that no word precedes: `::std::mem`, `<T as Trait>::Item`.
    fn skip_path(&mut self) {
        while let Some(Token::Ident(_) | Token::PathSep) = self.peek() {
            self.at += 1;
        }
    }

    /// The tree after `use`, up to its `;`, `,` or `}`.
    fn use_tree(&mut self, prefix: &mut Vec<String>, public: bool, imports: &mut Vec<Import>) {
        let depth = prefix.len();
        let mut name = None;
        while let Some(token) = self.peek() {
            match token {
                Token::Ident(word) if word == "as" => {
                    self.at += 1;
                    if let Some(Token::Ident(alias)) = self.peek() {
                        name = Some(alias.clone());
                    }
                }
                // `{self, ...}` is the module before the braces.
                Token::Ident(word) if word == "self" && depth > 0 && prefix.len() == depth => {
                    name = prefix.last().cloned();
                }
                Token::Ident(word) => {
                    prefix.push(word.clone());
                    name = Some(word.clone());
                }
                Token::Punct('*') => name = Some("*".to_owned()),
                Token::Punct('{') => {
                    self.at += 1;
                    while !self.take(&Token::Punct('}')) && self.peek().is_some() {
                        self.use_tree(prefix, public, imports);
                        self.take(&Token::Punct(','));
                    }
                    name = None;
                    continue;
                }
                Token::PathSep => {}
                _ => break,
            }
            self.at += 1;
        }
        if let Some(name) = name {
            imports.push(Import { path: prefix.clone(), name, public });
        }
        prefix.truncate(depth);
    }
}
