"""Write what the page shows for one step of a trial: inputs, scores, writes, states, A, one read, and the answer.

Units are drawn in the order of `sorted_units`, so that the writes of one step stand together.
"""

from __future__ import annotations

from html import escape

import numpy

from .drawing import bar, card, coloured, equation, grey, heat_map, math, number, picture, row, scale
from .networks import Images, Network, Trial

LAYERS = {"fast_weights": "fast weights", "multilevel": "multi-level fast weights"}
SYMBOLS = {"decay": "λ", "rate": "η", "inner_steps": "S"}
MAGNIFIED = 8  # screen pixels of an image's pixel


def heading(network: Network) -> str:
    """Return the title of the page, and what the run is."""
    settings = network.settings
    trained = ", ".join(f"{symbol} = {number(network.options[name])}" for name, symbol in SYMBOLS.items())
    note = f'<p class="fw-note">{escape(network.note)}</p>' if network.note else ""
    return (
        '<header class="fw-head"><div role="heading" aria-level="1">Fast weights, step by step</div>'
        f"<p><b>{escape(network.run.name)}</b>: {settings.task} with {LAYERS[settings.layer]}, "
        f"R = {settings.hidden_size}, trained with {trained}</p>{note}</header>"
    )


def error(words: str) -> str:
    """Return a message for a question that the task does not allow."""
    return f'<div class="fw-error" role="alert">{escape(words)}</div>'


def sorted_units(trial: Trial) -> numpy.ndarray:
    """Return the order of units by the step at which they are strongest."""
    h = numpy.abs(trial.trace.h)
    return numpy.lexsort((-h.max(axis=0), h.argmax(axis=0)))


def active(trial: Trial, units: numpy.ndarray) -> numpy.ndarray:
    """Return the units that are not 0 in every state, in the same order."""
    strongest: numpy.ndarray = numpy.abs(trial.trace.h).max(axis=0)
    found = units[strongest[units] > 0]
    return found if len(found) else units


def answer(network: Network, trial: Trial, trained: Trial, t: int, seen: str = "") -> str:
    """Return the probabilities of the answers. A line marks each probability with λ, η and S as trained.

    seen: a picture of what the answer is about.
    """
    found, before = trial.probabilities_at(t), trained.probabilities_at(t)
    best = int(found.argmax())
    rows = "".join(
        f'<div class="fw-answer{" fw-best" if n == best else ""}"><span>{escape(name)}</span>'
        f'<span class="fw-track"><i style="width:{100 * share:.1f}%"></i>'
        f'<u style="left:{100 * reference:.1f}%"></u></span><span>{share:.1%}</span></div>'
        for n, (name, share, reference) in enumerate(zip(network.classes, found, before, strict=True))
    )
    if trial.label is None:
        what, verdict = f"Action after frame {t}", f"The agent {trial.outcome}."
    elif best == trial.label:
        what, verdict = "Answer", "This is right."
    else:
        what, verdict = "Answer", f"Wrong. The right answer is {escape(network.classes[trial.label])}."
    name = escape(network.classes[best])
    kind = "fw-right" if trial.label in (None, best) else "fw-wrong"
    words = f'<div class="fw-verdict {kind}">{seen}<p class="fw-big">{name}</p><p>{verdict}</p></div>'
    caption = "Probabilities. Black lines: with λ, η and S as trained."
    return card(what, words + f'<div class="fw-answers">{rows}</div>', caption)


def timeline(trial: Trial, t: int, s: int, units: numpy.ndarray) -> str:
    """Return a column for each step: its input, its score, what is left of its write, and its state."""
    trace, units = trial.trace, active(trial, units)
    n, steps, query = trace.written_before[t], range(len(trace.h)), f"h_{s}({t + 1})"
    if isinstance(trial.inputs, list):
        inputs = [f"<kbd>{escape(character)}</kbd>" for character in trial.inputs]
    else:
        inputs = [grey(image, f"input of step {step}", "fw-input") for step, image in enumerate(trial.inputs)]
    numbered = [f"{each}<small>{step}</small>" for step, each in enumerate(inputs)]
    cells = [row(f"Step {math('t')} reads {math('x(t)')}", numbered, t, "fw-inputs")]

    bars = ["" for _ in steps]
    if n and trace.reads(t):
        scores = trace.scores(t, s)
        top = float(abs(scores).max()) or 1.0
        for step, score in zip(trace.writers, scores, strict=False):
            bars[step] = bar(score / top, number(score, 2) if abs(score) > top / 100 else "0")
        title = f"Scores, the brackets of (4): how strongly {math(query)} attends to each state"
    else:
        reason = "A is still zero" if trace.reads(t) else "it does not read A"
        title = f"Scores: step {t} attends to nothing, because {reason}"
    cells.append(row(title, bars, t, "fw-scores"))

    largest, writes = trace.largest, ["" for _ in steps]
    for k, step in enumerate(trace.writers[: n + trace.stores[t]], 1):
        write, left = trace.term(max(n, k), k), trace.left(max(n, k), k)
        drawn = heat_map(write[numpy.ix_(units, units)], largest, f"write {k}", "fw-square")
        writes[step] = f"{drawn}<small>{f'{left:.2f}' if k <= n else 'new'}</small>"
    term, factor = math("η λ^(t−τ) h(τ) h(τ)ᵀ"), math("λ^(t−τ)")
    title = f"Writes {term}: their sum is {math(f'A({n})')}. Below is how much is left, {factor}"
    cells.append(row(title, writes, t, "fw-writes"))

    top = float(abs(trace.h).max()) or 1.0
    states = [heat_map(h[units][:, None], top, f"h({step + 1})", "fw-column") for step, h in enumerate(trace.h)]
    title = f"States {math('h(t+1)')}: the {len(units)} of {trace.h.shape[1]} units that are ever active, one a row"
    cells.append(row(title, states, t, "fw-h"))
    strip = f'<div class="fw-strip" style="--steps:{len(trace.h)}"><div>{"".join(cells)}</div></div>'
    text = equation("A(t) h_s(t+1) = Σ_τ [ η λ^(t−τ) h(τ)ᵀ h_s(t+1) ] h(τ)", "(4)")
    caption = (
        f"A column holds the input of a step, and the state that the step wrote. {scale(top)} states, {scale(largest)} "
        "writes. Units are sorted by the step at which they are strongest."
    )
    if not all(trace.stores):
        caption += (
            " Some steps write nothing. A fades only in the steps that write: in (1) and (4), t and τ count writes."
        )
    return card(f"What step {t} attends to", text + strip, caption)


def matrices(trial: Trial, t: int, units: numpy.ndarray) -> str:
    """Return A before the step, after it, and the difference."""
    trace, units = trial.trace, active(trial, units)
    n, largest = trace.written_before[t], trace.largest

    def figure(values: numpy.ndarray, name: str, words: str) -> str:
        drawn = heat_map(values[numpy.ix_(units, units)], largest, name, "fw-square")
        return f"<figure>{drawn}<figcaption>{math(name)}<br>{words}</figcaption></figure>"

    before, after = trace.matrix(n), trace.matrix(n + trace.stores[t])
    pictures = figure(before, f"A({n})", f"the sum of {n} writes, which step {t} reads")
    if trace.stores[t]:
        decay, rate, h = number(trace.decay), number(trace.rate), f"h({n + 1})"
        pictures += figure(trace.term(n + 1, n + 1), f"{rate} {h} {h}ᵀ", f"the write of step {t}")
        pictures += figure(after, f"A({n + 1})", "the sum after this write")
        pictures += figure(after - before, f"A({n + 1}) − A({n})", "blue fades, orange is added")
        caption = f"Here {math(f'A({n + 1}) = {decay} A({n}) + {rate} {h} {h}ᵀ')}. {scale(largest)}"
    else:
        caption = f"Step {t} writes nothing: A stays as it is. {scale(largest)}"
    text = equation("A(t) = λ A(t−1) + η h(t) h(t)ᵀ", "(1)")
    return card("The fast weights", f'{text}<div class="fw-figures">{pictures}</div>', caption, "fw-whole")


def one_read(trial: Trial, t: int, s: int, units: numpy.ndarray) -> str:
    """Return the parts of equation (2) for read s of step t: the query, a, A h_s, and h_s+1."""
    trace = trial.trace
    n, a, f = trace.written_before[t], trace.preactivation(t), "f(LN[ {} ])" if trace.layer_norm else "f( {} )"
    parts = [("a = W h + C x + b", a)]
    if trace.reads(t):
        remembered = trace.remembered(t, s)
        parts.insert(0, (f"h_{s}({t + 1})", trace.state(t, s)))
        parts += [(f"A({n}) h_{s}({t + 1})", remembered), (f"h_{s + 1}({t + 1})", trace.state(t, s + 1))]
        sizes = [float(numpy.linalg.norm(part)) for part in (remembered, a)]
        share = sizes[0] / (sum(sizes) or 1.0)
        caption = f"By norm, {share:.0%} of the sum comes from the fast weights. A cell is one of {len(a)} units."
        text = "h_s+1 = " + f.format("A(t) h_s + a")
    else:
        parts.append((f"h({t + 1})", trace.h[t]))
        caption, text = f"A cell is one of {len(a)} units.", "h(t+1) = " + f.format("a")
    strips = "".join(
        f'<div class="fw-part"><span>{math(name)}</span><small>± {number(top)}</small>'
        f"{heat_map(values[units][None], top, name, 'fw-line')}</div>"
        for name, values in parts
        for top in [float(abs(values).max()) or 1.0]
    )
    title = f"Read {s + 1} of {trace.reads(t)}" if trace.reads(t) else "A step without a read"
    return card(title, equation(text, "(2), (5)") + strips, caption)


def image(network: Images, question: tuple[str, int], t: int) -> str:
    """Return a picture of the whole image, with a frame around the glimpse of step t."""
    whole = network.image(question)
    row_, column, side = (MAGNIFIED * place for place in network.places[t])
    pixels = numpy.repeat((255 * whole)[:, :, None], 3, 2).astype("uint8").repeat(MAGNIFIED, 0).repeat(MAGNIFIED, 1)
    glimpse = pixels[row_ : row_ + side, column : column + side]
    inside = glimpse[3:-3, 3:-3].copy()
    glimpse[...] = coloured(numpy.array(0.3), 1.0)
    glimpse[3:-3, 3:-3] = inside
    return picture(pixels, f"the image, with a frame around the glimpse of step {t}", "fw-image")
