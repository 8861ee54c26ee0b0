//! Puts many mutants into one source file, each behind a question that is answered when the program runs.
//!
//! So the program is built once for all of them, and not once for each. An operator `a < b` becomes
//! `(match crate::mutant() { 17 => (a) > (b), _ => a < b })`; a body begins with `if crate::mutant() == 18 { return …; }`.

use std::collections::BTreeMap;

use proc_macro2::{LineColumn, Span};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use crate::list::{Mutant, Place};

/// A woven file. Lines are counted from 1.
pub struct Woven {
    /// Its text.
    pub text: String,
    /// Mutants that are in it.
    pub inside: Vec<u32>,
    /// Where questions stand: first and last line, and the mutants that are asked for.
    questions: Vec<(usize, usize, Vec<u32>)>,
    /// Lines of which all is of one mutant.
    own: BTreeMap<usize, u32>,
}

impl Woven {
    /// The mutants whose own code is in these lines.
    pub fn exactly(&self, from: usize, to: usize) -> Vec<u32> {
        self.own.range(from..=to).map(|(_, id)| *id).collect()
    }

    /// The mutants that are asked for in these lines.
    pub fn near(&self, from: usize, to: usize) -> Vec<u32> {
        let near = self.questions.iter().filter(|(first, last, _)| *first <= to && from <= *last);
        near.flat_map(|(_, _, ids)| ids).copied().collect()
    }
}

/// Text to be put in front of the byte at `at`.
struct Insertion {
    at: usize,
    /// Order of those at one place: what closes comes first, inner before outer; what opens comes outer before inner.
    rank: (u8, i64, i64),
    text: String,
    ids: Vec<u32>,
}

struct Weaver<'a> {
    source: &'a str,
    /// Byte at which each line begins.
    lines: Vec<usize>,
    /// By genre and first character of what is replaced.
    wanted: BTreeMap<(&'a str, Place), Vec<&'a Mutant>>,
    insertions: Vec<Insertion>,
    inside: Vec<u32>,
}

/// Weaves `mutants`, all of this file, into its source. Those that cannot be asked about while the program runs are left out.
pub fn weave(source: &str, mutants: &[&Mutant]) -> syn::Result<Woven> {
    let file = syn::parse_file(source)?;
    let mut lines = vec![0];
    lines.extend(source.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1));
    let mut wanted: BTreeMap<(&str, Place), Vec<&Mutant>> = BTreeMap::new();
    for mutant in mutants {
        wanted.entry((&mutant.genre, mutant.span.start)).or_default().push(mutant);
    }
    let mut weaver = Weaver { source, lines, wanted, insertions: vec![], inside: vec![] };
    weaver.visit_file(&file);
    Ok(weaver.finish())
}

/// Marks the first line of what is one mutant's own.
const MARK: &str = "mutant ";
/// Begins the line behind the last of them.
const REST: &str = "_ =>";

/// The mutants to which whole lines belong.
fn own_lines(text: &str) -> BTreeMap<usize, u32> {
    let mut owner = None;
    let mut own = BTreeMap::new();
    for (number, line) in (1..).zip(text.lines()) {
        let marked = line.strip_prefix("/*").and_then(|rest| rest.strip_prefix(MARK));
        if let Some(id) = marked.and_then(|rest| rest.split('*').next()) {
            owner = id.parse().ok();
        } else if line.starts_with(REST) || line.is_empty() {
            owner = None;
        }
        if let Some(id) = owner {
            own.insert(number, id);
        }
    }
    own
}

/// The arms of a question, up to the one for everybody else.
fn arms(mutants: &[(u32, String)]) -> String {
    // On lines of their own, so that what the compiler says of them is not taken for something said of the original.
    let arms: String = mutants.iter().map(|(id, code)| format!("/*{MARK}{id}*/ {id} => {code},\n")).collect();
    format!("(match crate::mutant() {{\n{arms}{REST} ")
}

impl Weaver<'_> {
    fn offset(&self, place: LineColumn) -> usize {
        let start = self.lines[place.line - 1];
        let line = &self.source[start..];
        start + line.char_indices().nth(place.column).map_or(line.len(), |(at, _)| at)
    }

    fn range(&self, span: Span) -> (usize, usize) {
        (self.offset(span.start()), self.offset(span.end()))
    }

    fn code(&self, span: Span) -> &str {
        let (from, to) = self.range(span);
        &self.source[from..to]
    }

    fn take(&mut self, genre: &'static str, span: Span) -> Vec<Mutant> {
        let start = span.start();
        let place = Place { line: start.line, column: start.column + 1 };
        self.wanted.remove(&(genre, place)).unwrap_or_default().into_iter().cloned().collect()
    }

    fn insert(&mut self, at: usize, rank: (u8, i64, i64), text: String, ids: &[u32]) {
        self.insertions.push(Insertion { at, rank, text, ids: ids.to_vec() });
    }

    /// Text before and behind an expression.
    fn wrap(&mut self, span: Span, before: String, behind: &str, ids: &[u32]) {
        let (from, to) = self.range(span);
        let (len, number) = ((to - from) as i64, self.insertions.len() as i64);
        self.insert(from, (2, -len, number), before, ids);
        self.insert(to, (0, len, -number), behind.to_string(), ids);
        self.inside.extend(ids);
    }

    fn choose(&mut self, span: Span, choices: Vec<(u32, String)>) {
        if !choices.is_empty() {
            let ids: Vec<u32> = choices.iter().map(|(id, _)| *id).collect();
            self.wrap(span, arms(&choices), "\n})", &ids);
        }
    }

    /// The values that a function may give back instead of running.
    fn body(&mut self, block: &syn::Block) {
        let (open, close) = (block.span().start(), block.span().end());
        let inside = |place: &Place| {
            let at = LineColumn { line: place.line, column: place.column - 1 };
            open <= at && at < close
        };
        // Of the statements of the body, or of the body itself.
        let first = block.stmts.first().map_or(open, |first| first.span().start());
        let places = [first, open].map(|at| Place { line: at.line, column: at.column + 1 });
        let found: Vec<Mutant> = places
            .iter()
            .filter(|place| inside(place))
            .flat_map(|place| self.wanted.remove(&("FnValue", *place)).unwrap_or_default())
            .cloned()
            .collect();
        let at = self.offset(open) + 1;
        for mutant in found {
            let (id, value) = (mutant.id, &mutant.replacement);
            let text = format!("\n/*{MARK}{id}*/ if crate::mutant() == {id} {{ return {value}; }}\n\n");
            self.insert(at, (1, 0, i64::from(mutant.id)), text, &[mutant.id]);
            self.inside.push(mutant.id);
        }
    }

    fn finish(mut self) -> Woven {
        self.insertions.sort_by_key(|insertion| (insertion.at, insertion.rank));
        let (mut text, mut done, mut line) = (String::new(), 0, 1);
        let mut questions = vec![];
        for insertion in &self.insertions {
            let before = &self.source[done..insertion.at];
            line += before.matches('\n').count();
            text.push_str(before);
            done = insertion.at;
            let more = insertion.text.matches('\n').count();
            if more > 0 {
                questions.push((line, line + more, insertion.ids.clone()));
            }
            line += more;
            text.push_str(&insertion.text);
        }
        text.push_str(&self.source[done..]);
        let own = own_lines(&text);
        Woven { text, inside: self.inside, questions, own }
    }
}

/// Whether an expression may stand in parentheses: conditions with `let` may not.
fn has_let(expr: &syn::Expr) -> bool {
    match expr {
        syn::Expr::Let(_) => true,
        syn::Expr::Binary(binary) => has_let(&binary.left) || has_let(&binary.right),
        _ => false,
    }
}

impl<'ast> Visit<'ast> for Weaver<'_> {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.body(&item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.body(&item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        item.default.iter().for_each(|block| self.body(block));
        visit::visit_trait_item_fn(self, item);
    }

    fn visit_expr_binary(&mut self, expr: &'ast syn::ExprBinary) {
        let found = self.take("BinaryOperator", expr.op.span());
        if !has_let(&expr.left) && !has_let(&expr.right) {
            let (left, right) = (self.code(expr.left.span()).to_string(), self.code(expr.right.span()).to_string());
            let choices = found.iter().map(|m| (m.id, format!("({left}) {} ({right})", m.replacement))).collect();
            self.choose(expr.span(), choices);
        }
        visit::visit_expr_binary(self, expr);
    }

    fn visit_expr_unary(&mut self, expr: &'ast syn::ExprUnary) {
        let found = self.take("UnaryOperator", expr.op.span());
        let operand = self.code(expr.expr.span()).to_string();
        let choices = found.iter().map(|m| (m.id, format!("{}({operand})", m.replacement))).collect();
        self.choose(expr.span(), choices);
        visit::visit_expr_unary(self, expr);
    }

    fn visit_expr_struct(&mut self, expr: &'ast syn::ExprStruct) {
        if let Some(rest) = &expr.rest {
            let rest = self.code(rest.span()).to_string();
            for field in &expr.fields {
                let syn::Member::Named(name) = &field.member else { continue };
                let found = self.take("StructField", field.span());
                let choices: Vec<_> = found.iter().map(|m| (m.id, format!("({rest}).{name}"))).collect();
                if field.colon_token.is_none() && !choices.is_empty() {
                    let at = self.offset(field.span().start());
                    self.insert(at, (1, 0, 0), format!("{name}: "), &[]);
                }
                self.choose(field.expr.span(), choices);
            }
        }
        visit::visit_expr_struct(self, expr);
    }

    fn visit_arm(&mut self, arm: &'ast syn::Arm) {
        let deleted = self.take("MatchArm", arm.span());
        let guards = arm.guard.as_ref().map(|(_, guard)| (guard.span(), self.take("MatchArmGuard", guard.span())));
        for mutant in deleted {
            let question = format!("crate::mutant() != {}", mutant.id);
            match &guards {
                Some((span, _)) => self.wrap(*span, format!("{question}\n && ("), ")", &[mutant.id]),
                None => {
                    let at = self.offset(arm.pat.span().end());
                    self.insert(at, (1, 0, 0), format!("\n if {question} "), &[mutant.id]);
                    self.inside.push(mutant.id);
                }
            }
        }
        if let Some((span, mutants)) = guards {
            self.choose(span, mutants.into_iter().map(|m| (m.id, m.replacement)).collect());
        }
        visit::visit_arm(self, arm);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::list::Range;

    fn mutant(id: u32, genre: &str, line: usize, column: usize, replacement: &str) -> Mutant {
        let start = Place { line, column };
        let text = |text: &str| text.to_string();
        Mutant {
            id,
            file: "x.rs".into(),
            span: Range { start, end: start },
            replacement: text(replacement),
            genre: text(genre),
            name: String::new(),
        }
    }

    fn woven(source: &str, mutants: &[Mutant]) -> String {
        let woven = weave(source, &mutants.iter().collect::<Vec<_>>()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(woven.inside.len(), mutants.len());
        syn::parse_file(&woven.text).unwrap_or_else(|e| panic!("{e}: {}", woven.text));
        woven.text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn operators_are_asked_about_where_they_stand_also_inside_of_each_other() {
        let source = "fn f(a: u64) -> bool { a + 1 < 2 && !g(a) }\n";
        let mutants = [
            mutant(1, "BinaryOperator", 1, 26, "-"),
            mutant(2, "BinaryOperator", 1, 30, ">"),
            mutant(3, "BinaryOperator", 1, 34, "||"),
            mutant(4, "UnaryOperator", 1, 37, ""),
        ];
        let text = woven(source, &mutants);
        assert!(text.contains("3 => (a + 1 < 2) || (!g(a)), _ => (match crate::mutant() { /*mutant 2*/ 2 => (a + 1) > (2), _ => (match"), "{text}");
        assert!(text.contains("4 => (g(a)), _ => !g(a) })"), "{text}");
    }

    #[test]
    fn bodies_arms_and_guards_are_asked_about() {
        let source = "fn f(a: u64) -> u8 {\n    match a {\n        1 => 2,\n        2 if a > 1 => 3,\n        _ => 4,\n    }\n}\n";
        let mutants = [
            mutant(1, "FnValue", 2, 5, "0"),
            mutant(2, "MatchArm", 3, 9, ""),
            mutant(3, "MatchArm", 4, 9, ""),
            mutant(4, "MatchArmGuard", 4, 14, "true"),
            mutant(5, "BinaryOperator", 4, 16, "<"),
        ];
        let text = woven(source, &mutants);
        assert!(text.contains("{ /*mutant 1*/ if crate::mutant() == 1 { return 0; }"), "{text}");
        assert!(text.contains("1 if crate::mutant() != 2 => 2,"), "{text}");
        assert!(
            text.contains("2 if crate::mutant() != 3 && ((match crate::mutant() { /*mutant 4*/ 4 => true, _ => (match"),
            "{text}"
        );
    }

    #[test]
    fn fields_that_could_come_from_elsewhere_are_asked_about() {
        let source = "fn f(a: E) -> E { E { len: 1, start, ..a } }\n";
        let mutants = [mutant(1, "StructField", 1, 23, ""), mutant(2, "StructField", 1, 31, "")];
        let text = woven(source, &mutants);
        assert!(text.contains("len: (match crate::mutant() { /*mutant 1*/ 1 => (a).len, _ => 1 })"), "{text}");
        assert!(text.contains("start: (match crate::mutant() { /*mutant 2*/ 2 => (a).start, _ => start })"), "{text}");
    }

    #[test]
    fn conditions_with_let_are_left_as_they_are() {
        let source = "fn f() { if let Some(x) = g() && x == 1 {} }\n";
        let mutants = [mutant(1, "BinaryOperator", 1, 31, "||"), mutant(2, "BinaryOperator", 1, 36, "!=")];
        let woven = weave(source, &mutants.iter().collect::<Vec<_>>()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(woven.inside, [2]);
    }
}
