//! Jumps, calls, barriers and warp-level operations.

use super::super::code::{Barrier, Call, Converge, Instr, Slot, Vote, WarpOp, ZERO};
use super::super::ops::integer;
use super::super::syntax::Operand;
use super::scope::Symbol;
use super::{Decoder, next_index};

impl<'a> Decoder<'_, 'a> {
    pub(super) fn jump(
        &mut self,
        operands: &[Operand<'a>],
        instr: impl Fn(u32) -> Instr,
    ) -> Result<(), String> {
        let [Operand::Name(label)] = operands else {
            return Err("a branch without a label".to_owned());
        };
        self.jumps.push((self.code.instrs.len(), self.scopes.current(), label));
        self.push(instr(0));
        Ok(())
    }

    pub(super) fn set_target(&mut self, jump: usize, target: usize) -> Result<(), String> {
        let target = u32::try_from(target).map_err(|_large| "too many instructions".to_owned())?;
        match &mut self.code.instrs[jump] {
            Instr::Jump { to } | Instr::JumpIf { to, .. } => *to = target,
            other => return Err(format!("{other:?} is no jump")),
        }
        Ok(())
    }

    /// Sets the target of every jump, once all labels are known.
    pub(super) fn link(&mut self) -> Result<(), String> {
        for (jump, scope, label) in std::mem::take(&mut self.jumps) {
            let target = self.scopes.find_label(scope, label);
            self.set_target(jump, target.ok_or_else(|| format!("no label `{label}`"))?)?;
        }
        Ok(())
    }

    /// `call (results), name, (params)`; both lists may be absent.
    pub(super) fn call(&mut self, operands: &[Operand<'a>]) -> Result<(), String> {
        let (results, rest) = match operands {
            [Operand::Group(results), rest @ ..] => (results.as_slice(), rest),
            rest => (&[][..], rest),
        };
        let (name, params) = match rest {
            [Operand::Name(name), Operand::Group(params)] => (*name, params.as_slice()),
            [Operand::Name(name)] => (*name, &[][..]),
            _ => return Err("a call of this form is not supported".to_owned()),
        };
        if name == "__assertfail" {
            self.push(Instr::Trap);
            return Ok(());
        }
        let code = self.layout.function(name);
        let code =
            code.ok_or_else(|| format!("no function `{name}` (or it is called by address)"))?;
        let (returns_of, params_of) = &self.layout.signatures[code];
        let call = Call {
            code,
            returns: self.copies(results, returns_of)?,
            params: self.copies(params, params_of)?,
        };
        let index = next_index(&self.code.calls);
        self.code.calls.push(call);
        self.push(Instr::Call(index));
        Ok(())
    }

    /// Copies between the variables of the caller and those of the function.
    fn copies(
        &self,
        ours: &[Operand<'a>],
        theirs: &[(usize, usize)],
    ) -> Result<Vec<(usize, usize, usize)>, String> {
        if ours.len() != theirs.len() {
            return Err(format!("{} parameters instead of {}", ours.len(), theirs.len()));
        }
        let pairs = ours.iter().zip(theirs);
        pairs
            .map(|(our, &(at, bytes))| match our {
                Operand::Name(name) => match self.symbol(name) {
                    Some(Symbol::Argument(from)) => {
                        Ok((usize::try_from(from).unwrap_or(0), at, bytes))
                    }
                    _ => Err(format!("`{name}` is no parameter of a call")),
                },
                other => Err(format!("{other:?} is no parameter of a call")),
            })
            .collect()
    }

    /// `bar.sync a{, b}`, `bar.arrive a, b`, `bar.red.and.pred p, a{, b}, q`, `bar.warp.sync mask`.
    pub(super) fn barrier(
        &mut self,
        modifiers: &[&str],
        operands: &[Operand<'a>],
    ) -> Result<Option<()>, String> {
        let kept: Vec<&str> =
            modifiers.iter().copied().filter(|m| !matches!(*m, "cta" | "aligned")).collect();
        let (arrive, vote, rest) = match (kept.as_slice(), operands) {
            (["warp", "sync"], [mask]) => {
                let mask = self.value(mask)?;
                self.converge(Converge { mask, ..without_operands(WarpOp::Sync) });
                return Ok(Some(()));
            }
            (["sync"], rest) => (false, None, rest),
            (["arrive"], rest) => (true, None, rest),
            (["red", what, _], [target, rest @ .., test]) => {
                let what = match *what {
                    "popc" => Vote::Count,
                    "and" => Vote::And,
                    "or" => Vote::Or,
                    _ => return Ok(None),
                };
                let to = self.target(target)?.0;
                (false, Some((self.value(test)?, what, to)), rest)
            }
            _ => return Ok(None),
        };
        let (id, count) = match rest {
            [id] => (self.value(id)?, None),
            [id, count] => (self.value(id)?, Some(self.value(count)?)),
            _ => return Ok(None),
        };
        let index = next_index(&self.code.barriers);
        self.code.barriers.push(Barrier { id, count, arrive, vote });
        self.push(Instr::Barrier(index));
        Ok(Some(()))
    }

    fn converge(&mut self, op: Converge) {
        let index = next_index(&self.code.convergences);
        self.code.convergences.push(op);
        self.push(Instr::Converge(index));
    }

    /// Shuffles, votes, matches and reductions. `None` if the instruction is not supported.
    pub(super) fn warp_op(
        &mut self,
        op: &str,
        modifiers: &[&str],
        operands: &[Operand<'a>],
    ) -> Result<Option<()>, String> {
        let Some(what) = kind(op, modifiers) else { return Ok(None) };
        let [target, sources @ ..] = operands else { return Ok(None) };
        let (to, flag) = match target {
            Operand::Pair(pair) => (self.target(&pair.0)?.0, self.target(&pair.1)?.0),
            other => (self.target(other)?.0, self.slot()?),
        };
        let mut slots: Vec<Slot> = Vec::new();
        for source in sources {
            slots.push(self.value(source)?);
        }
        let op = match slots[..] {
            [] if matches!(what, WarpOp::ActiveMask) => without_operands(what),
            [value, mask] => Converge { value, mask, ..without_operands(what) },
            [value, lane, clamp, mask] => {
                Converge { value, mask, lane, clamp, ..without_operands(what) }
            }
            _ => return Ok(None),
        };
        self.converge(Converge { to, flag, ..op });
        Ok(Some(()))
    }
}

fn without_operands(what: WarpOp) -> Converge {
    Converge { what, to: ZERO, flag: ZERO, value: ZERO, mask: ZERO, lane: ZERO, clamp: ZERO }
}

fn kind(op: &str, modifiers: &[&str]) -> Option<WarpOp> {
    Some(match (op, modifiers) {
        ("shfl", ["sync", "idx", "b32"]) => WarpOp::ShuffleIndex,
        ("shfl", ["sync", "up", "b32"]) => WarpOp::ShuffleUp,
        ("shfl", ["sync", "down", "b32"]) => WarpOp::ShuffleDown,
        ("shfl", ["sync", "bfly", "b32"]) => WarpOp::ShuffleXor,
        ("vote", ["sync", "ballot", "b32"]) => WarpOp::Ballot,
        ("vote", ["sync", "any", "pred"]) => WarpOp::Any,
        ("vote", ["sync", "all", "pred"]) => WarpOp::All,
        ("vote", ["sync", "uni", "pred"]) => WarpOp::Uniform,
        ("match", ["any", "sync", _]) => WarpOp::MatchAny,
        ("match", ["all", "sync", _]) => WarpOp::MatchAll,
        ("redux", ["sync", fold, kind]) => WarpOp::Reduce(integer::find(fold, kind)?),
        ("activemask", ["b32"]) => WarpOp::ActiveMask,
        _ => return None,
    })
}
