"""The page of `python -m tasks explore`, a marimo notebook. It asks the library for every number that it shows."""

import marimo

app = marimo.App(width="full", app_title="Fast weights, step by step", css_file="page.css")


@app.cell
def _():
    import marimo as mo

    from tasks.exploring import networks, server, views

    network = server.network()
    mo.Html(views.heading(network))
    return mo, network, networks, views


@app.cell
def _(mo):
    another = mo.ui.button(value=0, on_click=lambda count: count + 1, label="Another one")
    return (another,)


@app.cell
def _(another, mo, network, networks):
    _asked = network.another(another.value) if another.value else network.first
    if isinstance(network, networks.Retrieval):
        question = mo.ui.text(value=_asked, debounce=250, label="String")
        hint = "Pairs of a letter and a digit, then ??, then one of the letters."
    elif isinstance(network, networks.Images):
        _class = mo.ui.dropdown(list(network.counts), value=_asked[0], label="Class")
        _number = mo.ui.number(1, max(network.counts.values()), value=_asked[1], label="image")
        question = mo.Html("{name} {number}").batch(name=_class, number=_number)
        hint = "Images of the test set."
    else:
        question = mo.ui.number(0, 2**31, value=_asked, label="Game")
        hint = "The agent sees the first frames only. What it does not see is dim."
    return hint, question


@app.cell
def _(mo):
    reset = mo.ui.button(value=0, on_click=lambda count: count + 1, label="As trained")
    return (reset,)


@app.cell
def _(mo, network, reset):
    _trained = network.options if reset.value >= 0 else {}  # a click makes the sliders anew
    _most = 5 * _trained["rate"] or 1.0
    _least = 0 if network.settings.layer == "fast_weights" else 1

    def _slider(name, start, stop, step, label):
        return mo.ui.slider(start, stop, step, value=_trained[name], show_value=True, full_width=True, label=label)

    decay = _slider("decay", 0, 1, 0.01, "λ, decay")
    rate = _slider("rate", 0, _most, _most / 100, "η, rate")
    inner_steps = _slider("inner_steps", _least, max(5, _trained["inner_steps"]), 1, "S, reads")
    return decay, inner_steps, rate


@app.cell
def _(another, decay, hint, inner_steps, mo, question, rate, reset):
    mo.Html(
        f'<div class="fw-controls"><div class="fw-question">{question}{another}<p>{hint}</p></div>'
        f'<div class="fw-knobs">{decay}{rate}{inner_steps}{reset}</div></div>'
    )
    return


@app.cell
def _(mo, network, question, views):
    try:
        asked = tuple(question.value.values()) if isinstance(question.value, dict) else question.value
        steps = network.steps(asked)
        _words = ""
    except ValueError as refused:
        _words = str(refused)
    mo.stop(bool(_words), mo.Html(views.error(_words)))
    return asked, steps


@app.cell
def _(mo, steps):
    time = mo.ui.slider(0, steps - 1, value=steps - 1, show_value=True, full_width=True, label="time step t")
    return (time,)


@app.cell
def _(inner_steps, mo):
    _last = max(inner_steps.value - 1, 0)
    inner = mo.ui.slider(
        0, max(_last, 1), value=0, show_value=True, full_width=True, label="inner step s", disabled=not _last
    )
    return (inner,)


@app.cell
def _(inner, mo, time):
    mo.Html(f'<div class="fw-time">{time}{inner}</div>')
    return


@app.cell
def _(asked, network, views):
    trained = network.trial(asked)
    units = views.sorted_units(trained)
    return trained, units


@app.cell
def _(asked, decay, inner_steps, network, rate):
    trial = network.trial(asked, decay=decay.value, rate=rate.value, inner_steps=inner_steps.value)
    return (trial,)


@app.cell
def _(asked, inner, mo, network, networks, time, trained, trial, units, views):
    _t = time.value
    _s = min(inner.value, max(trial.trace.reads(_t) - 1, 0))
    _image = views.image(network, asked, _t) if isinstance(network, networks.Images) else ""
    mo.Html(
        f'<div class="fw-page">{views.timeline(trial, _t, _s, units)}'
        f'<div class="fw-side">{views.answer(network, trial, trained, _t, _image)}'
        f"{views.one_read(trial, _t, _s, units)}</div>{views.matrices(trial, _t, units)}</div>"
    )
    return


if __name__ == "__main__":
    app.run()
