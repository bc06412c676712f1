"""What instructions cost on a Cortex-A53, in issue cycles.

Reciprocal throughputs as insn_bench_aarch64 measured them on a Raspberry Pi 3 (H. Suzuki,
https://github.com/ocxtal/insn_bench_aarch64, results/raspberry-pi-3_cortex-a53.md), rounded to the nearest
half or whole cycle. Where it gives several for what the counter does not tell apart, that of the commoner form stands:
a conditional branch that is not taken (1; taken 3), an unaligned load (one more) that is aligned.
"""

from __future__ import annotations

import re
from functools import cache

# A kind is a mnemonic and the class of its first operand, as arm/counter.c writes it. The first that fits.
_MEASURED = (
    # Loads bring 64 bits a cycle, stores take 128.
    (r"ldn?p q", 4),
    (r"ldu?r q", 2),
    (r"ldn?p w|ldpsw x", 3),
    (r"ldn?p x", 2),
    (r"ldu?r(s?[bh]|sw) [wx]", 2),
    (r"ldu?r [wx]", 1),
    (r"ld1 \{1x128\}", 2),
    (r"ld[12] \{2x128\}", 4),
    (r"ld1 \{3x128\}", 6),
    (r"ld1 \{4x128\}", 8),
    (r"ld3 \{3x128\}", 7),
    (r"ld4 \{4x128\}", 9),
    (r"ld[12] \{.\}lane|ld[12]r \{.x128\}", 1),
    (r"ld[34] \{.\}lane|ld[34]r \{.x128\}", 2),
    (r"stn?p q", 2),
    (r"stn?p [wx]", 1),
    (r"stu?r[bh]? [wxq]", 1),
    (r"st[12] \{.\}lane|st1 \{1x128\}", 1),
    (r"st[34] \{.\}lane|st2 \{2x128\}", 2),
    (r"st3 \{3x128\}", 4),
    (r"st4 \{4x128\}", 5),
    # Whole vectors.
    (r"[su]q?xtu?n2? v.*|sqxtun2? v.*|[su]?q?r?shru?n2? v.*", 0.5),
    (r"[su]adalp v128|[su]abal?2? v128|[su]rsra v128|r(add|sub)hn2? v.*|tbx v128", 2),
    (r"fsqrt v128", 9),
    (r"(dup|movi|mvni|ext|tbl|trn[12]|zip[12]|rev\d\d|cnt|cl[sz]|rbit) v128", 1),
    (r"(and|orr|orn|eor|not|mvn|bic|bi[ft]|bsl|mov) v128", 1),
    (r"cm(eq|g[et]|l[et]|h[is]|tst) v128", 1),
    (r"([su]q?r?)?sh(l|r|ll2?)u? v128|[su]xtl2? v128|s[lr]i v128|[su]sra v128", 1),
    (r"([su]?q?r?h?)(add|sub)p? v128|[su](add|sub)[lw]2? v128|[su]addlp v128|(add|sub)hn2? v.*", 1),
    (r"[su](min|max|a[b]d)p? v128|[su]a[b]dl2? v128|(sq)?(abs|neg) v128", 1),
    (r"(mul|mla|mls|pmul) v128|[su]m(ul|la|ls)l2? v128|sqd?r?dmul[hl]2? v128", 1),
    (
        r"f(add|sub|mul|mulx|mla|mls|abs|neg|a[b]d|addp|recp[es]|rsqrt[es]) v128",
        1,
    ),
    (r"f(min|max)(nm)?p? v128|f?ac?cm(eq|g[et]|l[et]) v128|fcm(eq|g[et]|l[et]) v128", 1),
    (r"[su]cvtf v128|fcvt\w* v.*|frint. v128|urecpe v128", 1),
    # Scalars in vector registers.
    (r"f(add|sub|n?mul|abs|neg|a[b]d|addp|n?madd|n?msub) [sd]", 0.5),
    (r"f(min|max)(nm)?[pv] [sd]|fc?cmpe? [sd]|fcsel [sd]", 1),
    (r"f(min|max)(nm)? [sd]|[su]cvtf [sd]|fcvt\w* [sdhwx]|frint. [sd]", 0.5),
    (r"fsqrt s", 9),
    (r"fsqrt d", 20),
    (r"(mov|ins) lane", 1),
    (r"[su]?add?l?v [bhsd]|[su](min|max)v [bhs]", 1),
    # General registers.
    (r"(add|sub|neg|adc|sbc|and|orr|orn|eor|eon|mvn|bic)s? [wx]|adrp? x|ngc [wx]", 0.5),
    (r"cmp [wx]|cmn [wx]|(mov[nzk]?|[su]xt[bhw]|cl[sz]|rbit|rev\d*) [wx]", 0.5),
    (r"(lsl|lsr|asr|ror|extr|[su]?bf\w+|bfi|bfxil|bfc) [wx]", 0.5),
    (r"c(set|setm|sel|sinc|sinv|sneg|inc|inv|neg) [wx]|nop|hint", 0.5),
    (r"ccm[pn] [wx]|tst [wx]|[su]m(ull|addl|negl|subl) x", 1),
    (r"mul [wx]|msub [wx]", 2),
    (r"(madd|mneg|sdiv|udiv) [wx]", 3),
    (r"[su]mulh x", 4),
    # Branches.
    (r"b\...|cbn?z [wx]|tbn?z [wx]", 1),
    (r"b|bl|ret", 3),
    (r"br x|blr x|br|blr", 4),
)


@cache
def issue_cycles(kind: str) -> float | None:
    """Of one such instruction; None where nobody measured it."""
    return next((cycles for rule, cycles in _MEASURED if re.fullmatch(rule, kind)), None)


def weighted(counts: dict[str, float]) -> tuple[float, float]:
    """The sum over a histogram, and the share of its instructions whose cost is a guess.

    Neither dual issue nor stalls are in it: a number to rank by, not a time.
    """
    total, guessed = 0.0, 0.0
    for kind, count in counts.items():
        cycles = issue_cycles(kind)
        guessed += count if cycles is None else 0.0
        total += count * (_guess(kind) if cycles is None else cycles)
    return total, guessed / max(1.0, sum(counts.values()))


def _guess(kind: str) -> float:
    """By what was measured: loads bring 64 bits a cycle, and half a vector takes half a cycle."""
    loaded = re.fullmatch(r"(?:ld1|st1) \{(\d)x\d+\}", kind)
    if loaded is not None:
        return float(loaded[1])
    return 2.0 if kind == "ldp d" else 0.5 if kind.endswith(" v64") else 1.0
