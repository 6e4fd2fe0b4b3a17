"""The PyTorch adapter on real PyTorch."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mlaas_condor.errors import FrameworkMissing, ModelFault, OutOfMemory, StorageFull
from mlaas_condor.training import frameworks, models
from mlaas_condor.training.frameworks import NoOnnx, Setup
from mlaas_condor.training.torch import adapter

ROOT = Path(__file__).parents[3]
COLUMNS = 6

PLAIN = """
import torch
from torch import nn
def model(idim):
    net = nn.Sequential(nn.Linear(idim, 8), nn.ReLU(), {middle} nn.Linear(8, {outputs}){end})
    {more}
    return net
"""
SIGMOID = ", nn.Sigmoid()"
FAST = "net.configure_optimizers = lambda: torch.optim.Adam(net.parameters(), 0.01)"
NOISY = "nn.Dropout(0.3), nn.BatchNorm1d(8),"

# A module in the style of those that MLaaS4HEP's users have: its own loop, and `train` and `eval` that return
# nothing and do not pass the mode on.
OWN_LOOP = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, idim):
        super().__init__()
        self.serving = True
        self.parts = nn.ModuleList([nn.Linear(idim, 256), nn.Linear(256, 128), nn.Linear(128, 1)])
        self.drop = nn.Dropout(0.2)
        self.seen = []

    def forward(self, x):
        if not isinstance(x, torch.Tensor):
            x = torch.Tensor(x)
        for part in self.parts[:-1]:
            x = self.drop(torch.relu(part(x)))
        return torch.sigmoid(self.parts[-1](x))

    def train(self, mode=True):
        super(Net, self).train()
        self.serving = False

    def eval(self):
        super(Net, self).eval()
        self.serving = True

    def train_clf(self, model, train_loader, val_loader):
        max_epochs, patience, waited, best = 1, 3, 0, 1.0
        criterion = nn.BCELoss()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.002, weight_decay=1e-5)
        model.train()
        for epoch in range(max_epochs):
            train_loss = 0.0
            for i, (xs, ys) in enumerate(train_loader):
                self.seen.append((tuple(xs.shape), tuple(ys.shape), xs.dtype, ys.dtype, float(xs[0, 0])))
                optimizer.zero_grad()
                loss = criterion(model(xs), ys)
                loss.backward()
                optimizer.step()
                train_loss = (train_loss * i + float(loss)) / (i + 1)
            val_loss = 0.0
            for i, (xs, ys) in enumerate(val_loader):
                val_loss = (val_loss * i + float(criterion(model(xs), ys))) / (i + 1)
            print("Epoch {}: train {:.4f}, validation {:.4f}".format(epoch + 1, train_loss, val_loss))
            if (best - val_loss) / best < 0.01:
                waited += 1
                if waited > patience:
                    break
            else:
                best, waited = val_loss, 0
        return best


def model(idim):
    return Net(idim)
"""


def text(outputs=1, end=SIGMOID, middle="", more=""):
    return PLAIN.format(outputs=outputs, end=end, middle=middle, more=more)


def forward(expression, outputs=3):
    """Return the text of a model with one linear layer whose result ``z`` is turned into what it gives."""
    return (
        "import torch\nfrom torch import nn\nclass Net(nn.Module):\n"
        "    def __init__(self, idim):\n        super().__init__()\n"
        f"        self.last = nn.Linear(idim, {outputs})\n"
        f"    def forward(self, x):\n        z = self.last(x)\n        return {expression}\n"
        "def model(idim):\n    return Net(idim)\n"
    )


@pytest.fixture
def make(tmp_path):
    def make_adapter(content, seed=3, task="classification", **setup):
        path = tmp_path / "model.py"
        path.write_text(content)
        return frameworks.open_adapter(models.check(path), Setup(COLUMNS, seed, 1, task, **setup))

    return make_adapter


def events(count, classes=2, seed=0):
    generator = np.random.default_rng(seed)
    x = generator.random((count, COLUMNS), dtype=np.float32)
    return x, np.minimum((x[:, 0] * classes).astype(np.int64), classes - 1)


def linear(count, seed=0):
    x, _ = events(count, seed=seed)
    return x, 3.0 + x.astype(np.float64) @ np.array([2.0, -1.0, 0.5, 0.0, 4.0, -3.0])


def event_weights(count, seed=1):
    return np.random.default_rng(seed).choice([-0.5, 0.0, 1.0, 2.5], count)


def module(model):
    return model._network.module


def weights(model):
    return [value.detach().cpu().numpy().copy() for value in module(model).state_dict().values()]


def same(some, others):
    return len(some) == len(others) and all(np.array_equal(a, b) for a, b in zip(some, others, strict=True))


def close(some, others, rtol=1e-5, atol=1e-6):
    for one, other in zip(some, others, strict=True):
        np.testing.assert_allclose(one, other, rtol=rtol, atol=atol)


def by_hand(model, x, y, batch_size, loss, w=None):
    """Train the module of a model for a pass, as one would write it, with Adam(1e-3)."""
    import torch

    net = module(model)
    net.train()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    w = torch.ones(len(x)) if w is None else torch.tensor(w, dtype=torch.float32)
    total = 0.0
    for start in range(0, len(x), batch_size):
        part = slice(start, start + batch_size)
        optimizer.zero_grad()
        each = loss(net(torch.tensor(x[part])), y[part]).reshape(-1)
        mean = (each * w[part]).sum() / len(each)
        mean.backward()
        optimizer.step()
        total += mean.item() * len(each)
    return total / len(x)


def bce(found, y):
    import torch

    p, t = found[:, 0], torch.tensor(y, dtype=torch.float32)
    return -(t * p.log() + (1 - t) * (1 - p).log())


def bce_of_logits(found, y):
    import torch

    return bce(torch.sigmoid(found), y)


def log_of_true(found, y):
    import torch

    return -torch.log_softmax(found, 1)[torch.arange(len(y)), torch.tensor(y)]


def squares(found, y):
    import torch

    return (found[:, 0] - torch.tensor(y, dtype=torch.float32)) ** 2


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("outputs", "end", "task", "loss"),
    [
        (1, SIGMOID, "classification", bce),
        (1, "", "classification", bce_of_logits),
        (3, "", "classification", log_of_true),
        (3, ", nn.LogSoftmax(1)", "classification", log_of_true),
        (1, "", "regression", squares),
    ],
)
def test_fit_does_what_one_would_write(make, outputs, end, task, loss, weighted):
    x, y = (
        linear(250) if task == "regression" else events(250, max(outputs, 2))
    )  # the last batch is a short one
    w = event_weights(250) if weighted else None
    ours, theirs = make(text(outputs, end), task=task), make(text(outputs, end), task=task)
    logs = ours.fit(x, y, 100, weights=w)
    assert logs == {"loss": pytest.approx(by_hand(theirs, x, y, 100, loss, w), rel=1e-5)}
    close(weights(ours), weights(theirs), rtol=1e-4)
    import torch

    with torch.no_grad():
        each = loss(module(ours)(torch.tensor(x)), y).reshape(-1).numpy()
    assert ours.evaluate(x, y, w)["loss"] == pytest.approx((each * (1 if w is None else w)).mean(), rel=1e-5)


def test_shuffling_is_a_permutation_chosen_by_the_seed(make):
    x, y = events(230)
    w = event_weights(230)
    order = np.arange(len(x))
    np.random.default_rng(17).shuffle(order)
    by_seed, by_order, other = make(text()), make(text()), make(text())
    by_seed.fit(x, y, 50, 17, w)
    by_order.fit(x[order], y[order], 50, None, w[order])
    other.fit(x, y, 50, 18, w)
    assert same(weights(by_seed), weights(by_order))
    assert not same(weights(by_seed), weights(other))


def test_it_learns(make):
    x, y = events(3000)
    model = make(text(more=FAST))
    first = model.evaluate(x, y)
    for epoch in range(8):
        model.fit(x, y, 50, shuffle_seed=epoch)
    assert model.evaluate(x, y)["loss"] < 0.5 * first["loss"]
    assert np.mean((model.predict(x) >= 0.5) == y) > 0.93


def test_evaluating_changes_nothing(make):
    import torch

    x, y = events(100)
    model = make(text(middle=NOISY))
    before, state = weights(model), torch.get_rng_state()
    assert model.evaluate(x, y) == model.evaluate(x, y)
    assert same([model.predict(x)], [model.predict(x)])
    assert same(before, weights(model))
    assert torch.equal(state, torch.get_rng_state())


def test_looking_at_the_model_leaves_weights_and_random_numbers_alone(make):
    import torch

    from mlaas_condor.training.torch.binding import seed_all

    content = text(middle=NOISY, end="")
    model = make(content)
    state = torch.get_rng_state()
    seed_all(torch, 3)
    by_user = sys.modules[models.MODULE_NAME].model(COLUMNS)
    assert torch.equal(state, torch.get_rng_state())
    assert same(weights(model), [value.numpy() for value in by_user.state_dict().values()])


def test_predict_is_the_same_whatever_the_batches(make, monkeypatch):
    x, _ = events(101)
    model = make(text())
    whole = model.predict(x)
    assert (whole.shape, whole.dtype) == ((101,), np.float32)
    monkeypatch.setattr(adapter, "PREDICT_BATCH", 25)
    np.testing.assert_allclose(model.predict(x), whole, rtol=1e-6)
    np.testing.assert_allclose(model.predict(x.astype(np.float64)), whole, rtol=1e-6)
    assert model.predict(x[:0]).shape == (0,)
    assert make(text(3, "")).predict(x[:0]).shape == (0, 3)


def test_events_from_a_file_that_may_only_be_read(make, tmp_path):
    x, y = events(300)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    from_file, from_memory = make(text()), make(text())
    logs = [model.fit(each, y, 100, 5) for model, each in ((from_file, mapped), (from_memory, x))]
    assert logs[0] == logs[1]
    assert same(weights(from_file), weights(from_memory))
    assert same([from_file.predict(mapped)], [from_memory.predict(x)])
    assert from_file.evaluate(mapped, y) == from_memory.evaluate(x, y)


def test_a_module_that_writes_into_what_it_is_given(make):
    x, y = events(100)
    kept = x.copy()
    model = make(forward("z.sigmoid()", 1).replace("z = ", "x -= 0.5\n        z = "))
    model.fit(x, y, 30)
    model.fit(x, y, 30, 2)
    model.evaluate(x, y)
    model.predict(x)
    np.testing.assert_array_equal(x, kept)


@pytest.mark.parametrize("end", ["", ", nn.Softmax(1)", ", nn.LogSoftmax(1)"])
def test_several_classes(make, end):
    x, y = events(1500, classes=3)
    model = make(text(3, end, more=FAST), classes=3)
    for epoch in range(20):
        model.fit(x, y, 20, shuffle_seed=epoch)
    scores = model.predict(x)
    assert (scores.shape, scores.dtype) == ((1500, 3), np.float32)
    np.testing.assert_allclose(scores.sum(axis=1), 1, rtol=1e-5)
    assert np.mean(scores.argmax(axis=1) == y) > 0.75


def test_three_ways_to_write_the_same_model_are_the_same(make):
    x, y = events(200, classes=3)
    found = []
    for end in ("", ", nn.Softmax(1)", ", nn.LogSoftmax(1)"):
        model = make(text(3, end))
        found.append([model.fit(x, y, 50, 1)["loss"], *weights(model), model.predict(x)])
    close(found[0], found[1])
    close(found[0], found[2])


@pytest.mark.parametrize(
    ("gives", "expressions"),
    [
        (
            "probabilities",
            ["torch.sigmoid(z[:, :1])", "torch.sigmoid(z[:, 0]).squeeze()", "z.sigmoid()[:, 0]",
             "z.softmax(1)[:, 1:2]", "1 / (1 + torch.exp(-z[:, 0]))", "0.5 * (1 + torch.tanh(z[:, 0]))",
             "z.sigmoid().mean(1)",
             "nn.functional.hardsigmoid(z[:, 0])", "z[:, 0].clamp(0, 1)"],
        ),
        ("logits", ["z[:, :1]", "z[:, 0]", "z.sum(1)", "z[:, 0] + x[:, 0]", "torch.tanh(z[:, 0])",
                    "10 * z[:, 0].sigmoid()"]),
    ],
)  # fmt: skip
def test_what_one_output_is(make, gives, expressions):
    x, y = events(40)
    for expression in expressions:
        model = make(forward(expression))
        assert f"binary cross-entropy of {gives}" in model.describe(), expression
        scores = model.predict(100 * x - 50)
        assert scores.shape == (40,) and scores.min() >= 0 and scores.max() <= 1, expression
        assert np.isfinite(model.fit(x, y, 15)["loss"]), expression
        assert model.predict(x[:1]).shape == (1,), expression


@pytest.mark.parametrize(
    ("expression", "gives"),
    [
        ("z", "logits"), ("torch.relu(z)", "logits"), ("z.softmax(0)", "logits"),
        ("z.softmax(1)", "probabilities"),
        ("z.exp() / z.exp().sum(1, keepdim=True)", "probabilities"),
        ("torch.log_softmax(z, 1)", "log-probabilities"),
        ("z - z.logsumexp(1, keepdim=True)", "log-probabilities"),
    ],
)  # fmt: skip
def test_what_several_outputs_are(make, expression, gives):
    model = make(forward(expression))
    assert f"loss cross-entropy of {gives}" in model.describe()
    np.testing.assert_allclose(model.predict(events(40)[0]).sum(axis=1), 1, rtol=1e-5)


def test_a_sigmoid_is_found_where_nothing_can_be_differentiated_in_evaluation(make):
    content = forward("z if self.training else z.detach()", 1).replace(
        "self.last(x)", "self.last(x).sigmoid()"
    )
    assert "binary cross-entropy of probabilities" in make(content).describe()


def test_a_module_that_takes_few_values_only(make):
    content = forward("10 * z.sum(1) - 5").replace(
        "z = self.last(x)", "z = self.last(torch.eye(6)[x[:, 0].long()])"
    )
    assert "binary cross-entropy of logits" in make(content).describe()


def test_a_regression_learns_a_linear_truth(make):
    x, y = linear(4000)
    model = make(text(end="", more=FAST), task="regression")
    for epoch in range(12):
        model.fit(x, y, 50, epoch)
    fresh, truth = linear(1000, seed=9)
    found = model.predict(fresh)
    assert found.shape == (1000,)
    assert np.std(found - truth) < 0.03 * np.std(truth)
    assert model.evaluate(fresh, truth)["loss"] == pytest.approx(np.mean((found - truth) ** 2), rel=1e-3)
    assert "loss mean squared error, optimizer Adam; scores are its outputs" in model.describe()


def test_a_regression_of_a_module_with_flat_output(make):
    x, y = linear(200)
    flat = make(text(end=", nn.Flatten(0)"), task="regression")
    column = make(text(end=""), task="regression")
    assert flat.fit(x, y, 50) == column.fit(x, y, 50)
    assert flat.predict(x).shape == (200,)


@pytest.mark.parametrize(
    ("end", "ends"), [(SIGMOID, "0 to 1"), (", nn.ReLU()", "0 to inf"), (", nn.Tanh()", "-1 to 1")]
)
def test_targets_beyond_what_the_module_gives_are_refused(make, end, ends):
    x, y = linear(60)
    model = make(text(end=end), task="regression")
    with pytest.raises(ModelFault, match=f"the targets run from -.* gives {ends}: .* Linear"):
        model.fit(x, y - 9, 20)
    assert np.isfinite(model.fit(x, (y - y.min()) / np.ptp(y), 20)["loss"])


def test_weights_of_one_are_no_weights(make):
    x, y = events(250)
    weighted, plain = make(text()), make(text())
    logs = [weighted.fit(x, y, 100, 4, np.ones(250)), plain.fit(x, y, 100, 4)]
    assert logs[0] == pytest.approx(logs[1], rel=1e-5)
    close(weights(weighted), weights(plain))


def test_a_last_event_alone_joins_the_batch_before_it(make):
    x, y = events(101)
    alone, together = make(text(middle=NOISY)), make(text(middle=NOISY))
    alone.fit(x, y, 50, 1)
    with pytest.raises(ModelFault, match="Expected more than 1 value per channel"):
        together.fit(x, y, 1)
    assert make(text()).fit(x, y, 1)["loss"] > 0


def test_the_seed_decides(make):
    assert same(weights(make(text(), seed=3)), weights(make(text(), seed=3)))
    assert not same(weights(make(text(), seed=3)), weights(make(text(), seed=4)))


def test_numbers_drawn_in_any_way_depend_on_the_seed_alone(make):
    content = forward(
        "torch.sigmoid(z * (1 + np.random.random()) * (1 + random.random()) * torch.rand(1))", 1
    ).replace("import torch", "import random\nimport numpy as np\nimport torch", 1)
    x, y = events(60)
    first, second = make(content), make(content)
    first.fit(x, y, 20, 1)
    np.random.random(), second.fit(x, y, 20, 1)
    assert same(weights(first), weights(second))


@pytest.mark.parametrize("seeds", [(1, 2), (None, None)])
@pytest.mark.parametrize(
    "optimizer", ["Adam(net.parameters(), 0.01)", "SGD(net.parameters(), 0.1, momentum=0.9)", ""]
)
def test_a_checkpoint_goes_on_bit_by_bit(make, tmp_path, optimizer, seeds):
    x, y = events(300)
    more = f"net.configure_optimizers = lambda: torch.optim.{optimizer}" if optimizer else ""
    content = text(middle=NOISY, more=more)
    model = make(content)
    model.fit(x, y, 50, seeds[0])
    model.checkpoint(tmp_path / "one.pth")
    logs = model.fit(x, y, 50, seeds[1])
    again = make(content, seed=99)
    again.restore(tmp_path / "one.pth")
    assert not same(weights(again), weights(model))
    assert again.fit(x, y, 50, seeds[1]) == logs
    assert same(weights(again), weights(model))
    assert same([again.predict(x)], [model.predict(x)])
    assert not (tmp_path / "one.pth.part").exists()


def test_a_pass_can_be_repeated_alone(make, tmp_path):
    """Whatever was drawn before it: its dropout follows from its own seed."""
    x, y = events(200)
    model = make(text(middle="nn.Dropout(0.5),"))
    model.checkpoint(tmp_path / "one.pth")
    model.fit(x, y, 50, 7)
    after = weights(model)
    model.restore(tmp_path / "one.pth")
    import torch

    torch.rand(5)
    model.fit(x, y, 50, 7)
    assert same(after, weights(model))


def test_a_checkpoint_of_another_model_is_refused(make, tmp_path):
    x, y = events(60)
    model = make(text())
    model.fit(x, y, 20)
    model.checkpoint(tmp_path / "one.pth")
    sgd = "net.configure_optimizers = lambda: torch.optim.SGD(net.parameters())"
    fewer = "net.configure_optimizers = lambda: torch.optim.Adam(list(net.parameters())[:2])"
    for content, what in (
        (text(outputs=2, end=""), "the weights of another model"),
        (text(middle="nn.BatchNorm1d(8),"), "the weights of another model"),
        (OWN_LOOP, "the weights of another model"),
        (text(more=sgd), "the state of another optimizer"),
        (text(more=fewer), "the state of another optimizer"),
    ):
        other = make(content)
        before = weights(other)
        with pytest.raises(ModelFault, match=rf"one\.pth: holds {what} than (that of )?model\.py"):
            other.restore(tmp_path / "one.pth")
        assert same(before, weights(other))
    (tmp_path / "bad.pth").write_bytes(b"nothing")
    with pytest.raises(ModelFault, match=r"bad\.pth: cannot be read"):
        model.restore(tmp_path / "bad.pth")


def test_a_module_that_keeps_more_than_tensors_in_its_state(make, tmp_path):
    content = forward("z.sigmoid()", 1).replace(
        "    def forward",
        "    def get_extra_state(self):\n        return {'path': pathlib.PurePosixPath('a')}\n"
        "    def set_extra_state(self, state):\n        self.path = state['path']\n    def forward",
    )
    model = make("import pathlib\n" + content)
    model.checkpoint(tmp_path / "one.pth")
    model.restore(tmp_path / "one.pth")
    assert str(module(model).path) == "a"


def test_the_learning_rate(make):
    x, y = events(60)
    model = make(text())
    assert model.learning_rate() == pytest.approx(1e-3)
    model.set_learning_rate(0.0)
    before = weights(model)
    model.fit(x, y, 20)
    assert model.learning_rate() == 0 and same(before, weights(model))
    groups = "[{'params': net[0].parameters(), 'lr': 0.1}, {'params': net[2].parameters()}]"
    model = make(text(more=f"net.configure_optimizers = lambda: torch.optim.SGD({groups}, 0.2)"))
    assert model.learning_rate() is None
    assert make(OWN_LOOP).learning_rate() is None


# What a module brings of its own.


@pytest.mark.parametrize("form", ["{}", "[{}]", "{{'optimizer': {}}}"])
def test_an_optimizer_of_the_users_own(make, form):
    x, y = events(60)
    made = form.format("torch.optim.SGD(net.parameters(), lr=0.25)")
    model = make(text(more=f"net.configure_optimizers = lambda: {made}"))
    assert model.learning_rate() == 0.25
    assert "optimizer SGD" in model.describe()
    assert model.fit(x, y, 20)["loss"] > 0


@pytest.mark.parametrize(
    "losses", ["nn.L1Loss()", "nn.functional.l1_loss", "lambda found, true: (found - true).abs()",
               "lambda found, true: (found - true).abs()[:, 0]", "nn.L1Loss(reduction='sum')"],
)  # fmt: skip
def test_a_loss_of_the_users_own(make, losses):
    x, y = events(250)
    model = make(text(more=f"net.loss_function = {losses}"))
    assert model.evaluate(x, y)["loss"] == pytest.approx(np.abs(model.predict(x) - y).mean(), rel=1e-5)
    before = weights(model)
    assert np.isfinite(model.fit(x, y, 100)["loss"]) and not same(before, weights(model))
    w = event_weights(250)
    if "functional" in losses:
        with pytest.raises(
            ModelFault, match=r"`loss_function` must give one loss an event, it gives shape \(\)"
        ):
            model.fit(x, y, 100, weights=w)
    else:
        mean = (np.abs(model.predict(x) - y) * w).mean()
        assert model.evaluate(x, y, w)["loss"] == pytest.approx(mean, rel=1e-5)
    assert type(module(model)).__name__ == "Sequential" and len(module(model)) == 4


def test_a_method_as_loss_with_classes(make):
    content = forward("z").replace(
        "def model",
        "    def loss_function(self, found, true):\n"
        "        return nn.functional.cross_entropy(found, true, label_smoothing=0.1)\ndef model",
    )
    x, y = events(90, classes=3)
    model = make(content)
    assert "loss loss_function" in model.describe()
    assert model.fit(x, y, 30)["loss"] > 0


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ("net.loss_function = 'mse'", "`loss_function` is 'mse': it must be a function"),
        ("net.loss_function = nn.CrossEntropyLoss(); net.loss_function.weight = torch.ones(7)",
         r"`loss_function` fails on outputs of shape \(2, 1\)"),
        ("net.loss_function = lambda found, true: found.detach().mean()",
         "gives nothing that depends on the outputs"),
        ("net.configure_optimizers = lambda: 1 / 0", ":6: ZeroDivisionError"),
        ("net.configure_optimizers = lambda: 'adam'", "must return one torch.*returns 'adam'"),
        ("net.configure_optimizers = lambda: ([], [])", "must return one torch.optim.Optimizer"),
        ("net.requires_grad_(False)", "no parameters that could be learnt"),
    ],
)  # fmt: skip
def test_what_a_module_brings_but_cannot_be_used(make, more, what):
    with pytest.raises(ModelFault, match=rf"(?s)model\.py.*{what}"):
        make(text(more=more))


def test_no_optimizer_given_means_adam(make):
    """As a module of Lightning has it, whose `configure_optimizers` was not written."""
    assert "optimizer Adam" in make(text(more="net.configure_optimizers = lambda: None")).describe()


@pytest.mark.parametrize("loss", ["nn.BCELoss()", "nn.CrossEntropyLoss()", "nn.functional.nll_loss"])
def test_a_regression_with_a_loss_for_classes_is_refused(make, loss):
    with pytest.raises(ModelFault, match=r"model\.py: `loss_function` is .* use MSELoss"):
        make(text(end="", more=f"net.loss_function = {loss}"), task="regression")


# A loop of the user's own.

# Of `float(loss)`, which users write; to them it is a line in the log.
loops = pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True to a scalar")


@loops
def test_an_own_loop_trains_as_it_is(make, capsys):
    x, y = events(1010)
    model = make(OWN_LOOP)
    assert model.own_loop and not make(text()).own_loop
    first = model.evaluate(x, y)
    for seed in range(4):
        logs = model.fit(x, y, 100, seed, validation=events(130, seed=5))
    out = capsys.readouterr().out
    assert out.count("Epoch 1: train") == 4
    assert logs == model.evaluate(x, y)
    assert logs["loss"] < 0.8 * first["loss"]
    assert model.predict(x).shape == (1010,)
    assert same([model.predict(x)], [model.predict(x)])  # its dropout is off, though `eval` leaves it on
    assert "trained by its own loop, train_clf" in model.describe()


def test_what_an_own_loop_is_given(make):
    import torch

    x, y = events(250)
    model = make(OWN_LOOP)
    model.fit(x, y, 100)
    assert module(model).seen == [
        ((n, COLUMNS), (n, 1), torch.float32, torch.float32, float(x[start, 0]))
        for start, n in ((0, 100), (100, 100), (200, 50))
    ]
    orders = []
    for seed in (1, 1, 2):
        module(model).seen.clear()
        model.fit(x, y, 100, seed)
        orders.append([each[-1] for each in module(model).seen])
    assert orders[0] == orders[1] != orders[2]


def test_an_own_loop_by_its_other_name_for_a_regression(make):
    content = OWN_LOOP.replace("train_clf", "torch_train").replace("BCELoss", "MSELoss")
    x, y = linear(300)
    model = make(content.replace("torch.sigmoid(self.parts[-1](x))", "self.parts[-1](x)"), task="regression")
    losses = [model.fit(x, y, 50, seed)["loss"] for seed in range(5)]
    assert losses[-1] < losses[0]
    assert np.mean((model.predict(x) - y) ** 2) == pytest.approx(losses[-1], rel=1e-4)


def test_an_own_loop_repeats_and_goes_on_bit_by_bit(make, tmp_path):
    x, y = events(300)
    model = make(OWN_LOOP)
    model.fit(x, y, 50, 1)
    model.checkpoint(tmp_path / "one.pth")
    model.fit(x, y, 50, 2)
    again = make(OWN_LOOP, seed=99)
    again.restore(tmp_path / "one.pth")
    again.fit(x, y, 50, 2)
    assert same(weights(again), weights(model))


def test_an_own_loop_sees_no_weights(make):
    x, y = events(60)
    with pytest.raises(ModelFault, match=r"model\.py: its own loop, `train_clf`, sees no event weights"):
        make(OWN_LOOP).fit(x, y, 20, weights=np.ones(60))


def test_an_own_loop_that_fails_says_where(make):
    x, y = events(60)
    line = "        optimizer = torch.optim.Adam"
    with pytest.raises(ModelFault, match=r"model\.py:32: ValueError: mine\n    raise ValueError\('mine'\)"):
        make(OWN_LOOP.replace(line, "        raise ValueError('mine')\n" + line)).fit(x, y, 20)


def test_an_own_loop_out_of_memory(make):
    x, y = events(60)
    line = "        optimizer = torch.optim.Adam"
    with pytest.raises(OutOfMemory, match="no memory left for 60 events"):
        make(OWN_LOOP.replace(line, "        torch.empty(10**16)\n" + line)).fit(x, y, 20)


# Files.

EXPORTED = [
    (text(middle=NOISY), "classification"),
    (text(end=""), "classification"),
    (text(end=", nn.Flatten(0)"), "classification"),
    (forward("z.squeeze()", 1), "classification"),
    (text(3, ""), "classification"),
    (text(3, ", nn.LogSoftmax(1)", NOISY), "classification"),
    (text(3, ", nn.Softmax(1)"), "classification"),
    (text(end=""), "regression"),
    (OWN_LOOP, "classification"),
]


@pytest.mark.parametrize(("content", "task"), EXPORTED)
def test_saved_and_written_as_onnx_it_predicts_the_same(make, tmp_path, capfd, content, task):
    import onnxruntime
    import torch

    x, y = linear(1000) if task == "regression" else events(1000)
    model = make(content, task=task)
    model.fit(x, y, 50, 1)
    scores = model.predict(x)
    capfd.readouterr()
    assert model.save(tmp_path / "out") == "model.pt2"
    model.export_onnx(tmp_path / "model.onnx")
    assert capfd.readouterr() == ("", "")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "model.json",
        "model.pt2",
        "weights.pth",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.py", "out"]

    loaded = adapter.TorchModel.load(tmp_path / "out", task=task)
    np.testing.assert_allclose(loaded.predict(x), scores, rtol=1e-5, atol=1e-6)
    assert loaded.predict(x[:1]).shape == scores[:1].shape
    assert loaded.evaluate(x, y)["loss"] == pytest.approx(model.evaluate(x, y)["loss"], rel=1e-4)
    kept = torch.load(tmp_path / "out" / "weights.pth", weights_only=True)
    assert same(weights(model), [value.numpy() for value in kept.values()])

    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (given,), (given_back,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape[1:], given_back.name) == (
        "features",
        "tensor(float)",
        [COLUMNS],
        "scores",
    )
    assert not isinstance(given.shape[0], int) and given.shape[0] == given_back.shape[0]
    for n in (1, 2, 1000):
        (found,) = session.run(None, {"features": x[:n]})
        assert found.shape == (n, scores.size // 1000)
        np.testing.assert_allclose(found.reshape(scores[:n].shape), scores[:n], rtol=1e-5, atol=1e-5)
    # It is as it was: it goes on learning.
    assert np.isfinite(model.fit(x, y, 50, 2)["loss"])


def test_a_loaded_program_predicts_only(make, tmp_path):
    import onnxruntime

    x, y = events(60)
    model = make(text())
    model.save(tmp_path / "out")
    loaded = adapter.TorchModel.load(tmp_path / "out")
    with pytest.raises(ModelFault, match="out: an exported model can only predict"):
        loaded.fit(x, y, 20)
    assert "only to predict" in loaded.describe() and loaded.learning_rate() is None
    with pytest.raises(ModelFault, match=r"made for 6 columns, given events of shape \(60, 4\)"):
        loaded.predict(x[:, :4])
    loaded.export_onnx(tmp_path / "model.onnx")
    (found,) = onnxruntime.InferenceSession(tmp_path / "model.onnx").run(None, {"features": x})
    np.testing.assert_allclose(found[:, 0], model.predict(x), rtol=1e-5)
    assert loaded.save(tmp_path / "again") == "model.pt2"
    assert same([adapter.TorchModel.load(tmp_path / "again").predict(x)], [loaded.predict(x)])


def test_what_cannot_be_exported_comes_back_with_the_file(make, tmp_path, caplog, capfd):
    content = forward("z if z.sum() > 0 else 2 * z", 1).replace(
        "def model(idim)", "def model(idim, unused=1)"
    )
    x, y = events(60)
    model = make(content, arguments={"unused": 2})
    model.fit(x, y, 20)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model.pt2").touch()  # of an earlier model
    assert model.save(tmp_path / "out") == "weights.pth"
    assert "model.py: PyTorch cannot export the module" in caplog.text
    with pytest.raises(NoOnnx, match=r"model\.py: PyTorch cannot export the module: it decides by"):
        model.export_onnx(tmp_path / "model.onnx")
    assert capfd.readouterr().out == "" and not (tmp_path / "model.onnx").exists()
    assert json.loads((tmp_path / "out" / "model.json").read_text())["arguments"] == {"unused": 2}
    with pytest.raises(ModelFault, match=r"holds weights only.* its model file is needed"):
        adapter.TorchModel.load(tmp_path / "out")
    loaded = adapter.TorchModel.load(tmp_path / "out", models.check(tmp_path / "model.py"))
    assert same([loaded.predict(x)], [model.predict(x)])
    assert loaded.evaluate(x, y) == model.evaluate(x, y)
    assert np.isfinite(loaded.fit(x, y, 20)["loss"])
    (tmp_path / "model.py").write_text(text().replace("def model(idim)", "def model(idim, unused=1)"))
    with pytest.raises(ModelFault, match=r"weights\.pth: holds the weights of another model than model\.py"):
        adapter.TorchModel.load(tmp_path / "out", models.check(tmp_path / "model.py"))


def test_an_export_that_would_predict_otherwise_is_none(make, tmp_path):
    """The number of events of a batch decides: what is exported has it for one number only."""
    model = make(forward("z if len(x) < 4 else 2 * z", 1))
    assert model.save(tmp_path / "out") == "weights.pth"


@pytest.mark.parametrize("broken", [["model.json"], ["model.pt2"]])
def test_loading_what_is_no_model(make, tmp_path, broken):
    make(text()).save(tmp_path / "out")
    for name in broken:
        (tmp_path / "out" / name).write_bytes(b"nothing")
    with pytest.raises(ModelFault, match=r"no PyTorch model|cannot load it"):
        adapter.TorchModel.load(tmp_path / "out")
    with pytest.raises(ModelFault, match="holds no PyTorch model that can be loaded"):
        adapter.TorchModel.load(tmp_path)


# What goes wrong.


@pytest.mark.parametrize("call", ["fit", "evaluate", "predict"])
@pytest.mark.parametrize("content", [text(), OWN_LOOP])
def test_wrong_columns_name_those_expected(make, content, call):
    x, y = events(20)
    model = make(content)
    arguments = {"fit": (x[:, :4], y, 10), "evaluate": (x[:, :4], y), "predict": (x[:, :4],)}
    with pytest.raises(ModelFault, match=r"model\.py: made for 6 columns, given events of shape \(20, 4\)"):
        getattr(model, call)(*arguments[call])


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (text().replace("nn.Linear(idim", "nn.Linear(idim + 1"),
         r"fails on 2 events of 6 columns.*shapes"),
        (text(end=", nn.Unflatten(1, (1, 1))"),
         r"one score, or one a class; for 2 events the model returns shape \(2, 1, 1\)"),
        (forward("z.sum()"), r"for 2 events the model returns Tensor"),
        (forward("(z, z)"), "for 2 events the model returns tuple"),
        (forward("z.softmax(1)", 1), "gives 1 for every event, as a softmax of one output"),
        (forward("z.sigmoid()"), "a sigmoid for each of 3 classes"),
        ("import torch\ndef model(idim): return {}", r"returns a dict, no torch\.nn\.Module"),
        ("import torch\ndef model(idim): raise ValueError('mine')", "2: ValueError: mine"),
    ],
)  # fmt: skip
def test_models_that_cannot_be_used(make, content, what):
    with pytest.raises(ModelFault, match=rf"(?s)model\.py.*{what}"):
        make(content)


def test_a_regression_with_several_outputs_is_refused(make):
    with pytest.raises(ModelFault, match="a regression needs one output an event, the model gives 3"):
        make(text(3, ""), task="regression")


@pytest.mark.parametrize("content", [text(), OWN_LOOP])
def test_more_classes_than_outputs(make, content):
    x, y = events(90, classes=3)
    with pytest.raises(ModelFault, match=r"the data have 3 classes, the model gives 1 score"):
        make(content).fit(x, y, 10)
    with pytest.raises(ModelFault, match=r"the data have 3 classes, the model gives 1 score"):
        make(content, classes=3)


def test_a_layer_that_learns_its_width_from_the_events(make):
    x, y = events(60)
    model = make(text().replace("nn.Linear(idim, 8)", "nn.LazyLinear(8)"))
    before = weights(model)
    model.fit(x, y, 20)
    assert not same(before, weights(model))
    assert same(before, weights(make(text().replace("nn.Linear(idim, 8)", "nn.LazyLinear(8)"))))


def test_out_of_memory_and_a_full_disk(make, tmp_path, monkeypatch):
    import torch

    x, y = events(20)
    for error in ("raise MemoryError", "raise torch.OutOfMemoryError('GPU')", "torch.empty(10**16)"):
        content = forward("z.sigmoid()", 1).replace(
            "        z =", f"        if len(x) == 20: {error}\n        z ="
        )
        with pytest.raises(OutOfMemory, match=r"model\.py: no memory left for 20 events of 6 columns"):
            make(content).fit(x, y, 20)
    model = make(text())
    monkeypatch.setattr(
        torch, "save", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    for write in (lambda: model.save(tmp_path / "out"), lambda: model.checkpoint(tmp_path / "one.pth")):
        with pytest.raises(StorageFull):
            write()


def test_what_is_not_installed_says_how_to_install_it(make, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(FrameworkMissing, match=r"pip install 'mlaas-condor\[torch\]'"):
        make(text())


def test_onnx_without_its_libraries(make, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] in ("onnx", "onnxscript")]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("onnx", "onnxscript"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(NoOnnx, match=r"takes onnx and onnxscript .*pip install 'mlaas-condor\[torch\]'"):
        make(text()).export_onnx(tmp_path / "model.onnx")


def test_gpus_that_are_not_there(make, caplog):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there are GPUs here")
    with caplog.at_level(logging.WARNING, "mlaas_condor"):
        model = make(text(), gpus=2)
    assert "the job asked for 2 GPU(s), PyTorch sees 0: training on the CPU" in caplog.text
    assert model.describe().endswith(", cpu")


def test_describe(make):
    lines = make(text(end="")).describe().splitlines()
    assert lines[0] == "Sequential(" and "(0): Linear(in_features=6, out_features=8, bias=True)" in lines[1]
    assert lines[-1].startswith(
        "65 parameters, loss binary cross-entropy of logits, optimizer Adam; "
        "scores are the Sigmoid of its outputs; PyTorch 2."
    )


# Also run here: what the first lines of a test would be, and the weights' digest.
TRAINING = """
import hashlib, sys
from pathlib import Path
import numpy as np
from mlaas_condor.training import frameworks, models
model = frameworks.open_adapter(models.check(Path({path!r})), frameworks.Setup(20, 11, 2))
x = np.random.default_rng(0).random((700, 20), dtype=np.float32)
for seed in range(3):
    model.fit(x, (x[:, 0] > 0.5).astype(int), 64, seed)
values = [value.numpy().tobytes() for value in model._network.module.state_dict().values()]
print(hashlib.sha256(b"".join(values)).hexdigest())
"""


def test_the_same_bits_in_another_process(tmp_path, capsys):
    (tmp_path / "model.py").write_text(text(middle=NOISY))
    program = TRAINING.format(path=str(tmp_path / "model.py"))
    exec(program, {})
    there = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(there.stdout) == 65 and there.stdout == capsys.readouterr().out
