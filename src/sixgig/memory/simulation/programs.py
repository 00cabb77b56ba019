"""The tasks as sequences of passes: what `benchmarks/memory_programs.py` does, as allocations."""

from __future__ import annotations

from dataclasses import replace

from ...catalogue import ModelSpec
from ..workload import Workload
from .allocator import Allocator, Block
from .backward import GRADIENTS, LOGITS, LOSS_ROWS, Trained, TrainingPass
from .operations import LOGIT_ROWS
from .passes import Cache, Pass
from .splitting import split
from .streamed import split_from_disk
from .weights import hold_weights

NEW_TOKENS = 8  # generated after a prompt that fills the rest of the context
NUM_STEPS = 2  # the optimizer makes its moments in the first


def simulate(
    spec: ModelSpec,
    work: Workload,
    *,
    workspace_bytes: int,
    limit_bytes: int | None = None,
    logit_rows: int = LOGIT_ROWS["cuda"],
) -> Allocator:
    """Does `work` once on a simulated allocator and gives it back; read its peaks.

    Args:
        workspace_bytes: what cuBLAS takes through the allocator for each thread that multiplies.
        limit_bytes: of memory that the allocator may reserve; beyond it SimulatedOutOfMemory is raised.
        logit_rows: that scoring and splitting hold at a time.
    """
    memory = Allocator(limit_bytes, workspace_bytes)
    if work.task == "split" and work.splitting.layers_from == "disk":
        split_from_disk(spec, replace(work, bits=32), memory)
        return memory
    linears = hold_weights(spec, work, memory)
    if work.task == "split":
        split(spec, replace(work, bits=32), memory, linears, logit_rows)
    elif work.task == "score":
        _score(spec, work, memory, logit_rows)
    else:
        {"generate": _generate, "sft": _train}[work.task](spec, work, memory)
    return memory


def _forward(run: Pass) -> tuple[Block, list[Block]]:
    """All layers and the final norm; hidden states, and what lives as long as the pass."""
    spec = run.spec
    h, *angles = run.embed()
    for index in range(spec.num_layers):
        h, before = run.layer(index, h), h
        run.drop(before)
    hidden = run.norm("final", h, run.num_positions * spec.hidden_size)
    run.drop(h)
    return hidden, angles


def _generate(spec: ModelSpec, work: Workload, memory: Allocator) -> None:
    cache = Cache()
    prompt = max(1, work.context - NEW_TOKENS)
    for length in (prompt, 1):  # the prompt, then the last token, whose cache is the longest
        run = Pass(spec, work, memory, batch=work.batch, length=length, cache=cache)
        hidden, angles = _forward(run)
        logits = _head_of_last(run, hidden)
        wide = memory.hold(4 * work.batch * spec.vocab_size, LOGITS)
        run.drop(logits, hidden, wide, *angles)
        cache.length = work.context - 1


def _head_of_last(run: Pass, hidden: Block) -> Block:
    spec, last = run.spec, Pass(run.spec, run.work, run.memory, batch=run.batch, length=1)
    return last.linear("head", hidden, spec.hidden_size, spec.vocab_size, x_bytes=2, part="head")


def _score(spec: ModelSpec, work: Workload, memory: Allocator, logit_rows: int) -> None:
    run = Pass(spec, work, memory, batch=work.batch, length=work.context)
    hidden, angles = _forward(run)
    run.drop(*angles)
    head = run.new(spec.vocab_size * spec.hidden_size, 2, LOGITS) if run.autocast else None
    # Without the last position of each sequence, several are no longer one piece; the caller keeps the whole.
    pieces = [run.new(run.num_positions * spec.hidden_size, run.residual_bytes)] if work.batch > 1 else []
    num_predicted = work.batch * (work.context - 1)
    held: list[Block] = []
    for start in range(0, num_predicted, logit_rows):
        rows = min(logit_rows, num_predicted - start)
        targets = run.new(rows * spec.hidden_size, run.weight_bytes)
        run.drop(*held)  # the last chunk's are named until here
        held = [targets]
        _nll_of_rows(run, rows)
    run.drop(hidden, *pieces, *held, *([head] if head else []))


def _nll_of_rows(run: Pass, rows: int) -> None:
    """`numerics.likelihood._chunk_nll`. Every chunk is played: what a first one leaves can be cut by the next
    one's rows so that its logits find no room under a limit."""
    num_values, num_logits = rows * run.spec.hidden_size, rows * run.spec.vocab_size
    wide = [run.new(num_values, 4), run.new(num_values, 4)] if run.residual_bytes != 4 else []
    product = run.new(num_values, 4)
    run.drop(*wide, product)
    narrow = [run.new(num_values, 2)] if run.autocast else []
    logits = run.new(num_logits, run.compute_bytes, LOGITS)
    run.drop(*narrow)
    others = run.new(num_logits, 4, LOGITS)
    run.drop(logits, others)


def _train(spec: ModelSpec, work: Workload, memory: Allocator) -> None:
    how = work.training
    trained = Trained(memory, 4 if work.bits == 32 else 2, within_backward=how.optimizer == "in-backward")
    for _ in range(NUM_STEPS):
        for _ in range(how.accumulation):
            _micro_batch(spec, work, memory, trained)
        if not trained.within_backward:
            trained.step(how.optimizer)


def _micro_batch(spec: ModelSpec, work: Workload, memory: Allocator, trained: Trained) -> None:
    run = TrainingPass(spec, work, memory, batch=work.batch, length=work.context, training=True)
    run.trained = trained
    how, n = work.training, run.num_positions
    h, *angles = run.embed()
    # Each layer's checkpoint has a reference to the mask; without them it goes with the forward pass.
    masks = [angles.pop()] if run.mask_bytes and not how.checkpointing else []
    inputs = []
    for index in range(spec.num_layers):
        run.recording = not how.checkpointing
        h, before = run.layer(index, h), h
        run.recording = True
        if how.checkpointing:
            inputs.append(before)
        else:
            run.drop(before)
    hidden = run.norm("final", h, n * spec.hidden_size)
    run.drop(h, *masks)
    loss_back = _chunked_loss if how.loss == "chunked" else _dense_loss
    gradient, of_head = loss_back(run, hidden)
    gradient = run.norm_back(
        "final", gradient, None, num_values=n * spec.hidden_size, num_bytes=run.residual_bytes
    )
    for index in reversed(range(spec.num_layers)):
        if how.checkpointing:
            before = inputs.pop()
            run.drop(run.layer(index, before))
            run.end_autocast()
            gradient = run.layer_back(index, gradient)
            run.drop(before)
        else:
            gradient = run.layer_back(index, gradient)
    num_weights = spec.vocab_size * spec.hidden_size
    of_embedding = run.new(num_weights, run.weight_bytes, GRADIENTS)
    run.drop(gradient, *angles)
    is_one_product = how.loss == "dense" or _num_chunks(run) == 1
    if of_head is not None and is_one_product and not run.autocast:
        # The head's gradient is a transposed view, so that the sum of both is a third tensor.
        total = run.new(num_weights, run.weight_bytes, GRADIENTS)
        run.drop(of_embedding, of_head)
        of_embedding = total
    elif of_head is not None:
        run.drop(of_embedding)
        of_embedding = of_head
    trained.accumulate("embedding", of_embedding, num_weights)


def _dense_loss(run: TrainingPass, hidden: Block) -> tuple[Block, Block | None]:
    """All logits in fp32, their log-softmax, and back; the hidden states' gradient, the tied head's."""
    spec, n = run.spec, run.num_positions
    num_logits = n * spec.vocab_size
    logits = run.linear(
        "head", hidden, spec.hidden_size, spec.vocab_size, x_bytes=run.residual_bytes, part="head"
    )
    wide = run.new(num_logits, 4, LOGITS) if run.compute_bytes != 4 else run.memory.keep(logits)
    log = run.new(num_logits, 4, LOGITS)
    run.drop(wide, hidden, logits)
    run.end_autocast()
    of_log = run.new(num_logits, 4, LOGITS)
    of_logits = run.new(num_logits, 4, LOGITS)
    run.drop(of_log, log)
    if run.compute_bytes != 4:
        of_logits, wide = run.new(num_logits, run.compute_bytes, LOGITS), of_logits
        run.drop(wide)
    return _head_back(run, of_logits)


def _head_back(run: TrainingPass, of_logits: Block) -> tuple[Block, Block | None]:
    """As `linear_back`, but a tied head's gradient waits for the embedding's at the end of the pass."""
    spec, trained = run.spec, run.trained
    if not spec.tied_embeddings:
        return run.linear_back("head", of_logits, spec.hidden_size, spec.vocab_size, wide_input=True), None
    waiting = Trained(run.memory, trained.weight_bytes)
    run.trained = waiting
    gradient = run.linear_back("head", of_logits, spec.hidden_size, spec.vocab_size, wide_input=True)
    run.trained = trained
    return gradient, waiting.gradients["head"]


def _chunked_loss(run: TrainingPass, hidden: Block) -> tuple[Block, Block | None]:
    """A few rows of logits at a time, forward without keeping them, then back from the last."""
    spec, n = run.spec, run.num_positions
    num_logits = min(LOSS_ROWS, n) * spec.vocab_size
    num_weights = spec.vocab_size * spec.hidden_size
    weight = run.new(num_weights, 2, LOGITS) if run.autocast else None
    _rows_forward(run, num_logits, to_go_back=False)
    if weight is not None:
        run.drop(weight)
    run.end_autocast()
    gradient = total = None
    for chunk in range(_num_chunks(run)):
        weight = run.new(num_weights, 2, LOGITS) if run.autocast else None
        of_logits = _rows_forward(run, num_logits, to_go_back=True)
        of_weight = run.new(num_weights, run.compute_bytes, GRADIENTS)
        if weight is not None:
            run.drop(weight)
        run.drop(of_logits)
        if chunk == 1:  # the first sum is a new tensor, later ones are taken in place
            assert total is not None
            total, old = run.new(num_weights, run.compute_bytes, GRADIENTS), total
            run.drop(old, of_weight)
        elif total is None:
            total = of_weight
        else:
            run.drop(of_weight)
        part = run.new(n * spec.hidden_size, run.residual_bytes)
        if gradient is None:
            gradient = part
        else:
            run.drop(part)
    assert gradient is not None
    assert total is not None
    run.drop(hidden)
    if run.autocast:
        total, narrow = run.new(num_weights, 4, GRADIENTS), total
        run.drop(narrow)
    if spec.tied_embeddings:
        return gradient, total
    run.trained.accumulate("head", total, num_weights)
    return gradient, None


def _num_chunks(run: Pass) -> int:
    """Of a chunked loss; the last position of a sequence predicts nothing."""
    return max(1, -(-(run.num_positions - run.batch) // LOSS_ROWS))


def _rows_forward(run: Pass, num_logits: int, *, to_go_back: bool) -> Block:
    """Logits of a few rows, in fp32, their log-softmax; with `to_go_back` the logits' gradient."""
    c = run.compute_bytes
    logits = run.new(num_logits, c, LOGITS)
    wide = run.memory.keep(logits) if c == 4 else run.new(num_logits, 4, LOGITS)
    run.drop(logits)
    log = run.new(num_logits, 4, LOGITS)
    run.drop(wide)
    if not to_go_back:
        run.drop(log)
        return log
    of_log, of_logits = run.new(num_logits, 4, LOGITS), run.new(num_logits, 4, LOGITS)
    run.drop(of_log, log)
    if c != 4:
        of_logits, wide = run.new(num_logits, c, LOGITS), of_logits
        run.drop(wide)
    return of_logits
