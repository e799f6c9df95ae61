"""``InsertTransfers``: gives every value a lane, and moves it where the other lane reads it."""

from __future__ import annotations

import tvm
from tvm import relax

from syncnas_tvm.graph.calls import JOIN_ATTR, CallSite, calls_of
from syncnas_tvm.graph.dataflow import dtype_of, shape_of
from syncnas_tvm.graph.rebuild import emit_function, fresh_params, tensor_type
from syncnas_tvm.graph.rows import ROWS
from syncnas_tvm.passes.lanes import lane_attrs
from syncnas_tvm.passes.row_seams import RowSeam, find_seams, rooms_of, rows_wanted, with_room
from syncnas_tvm.work import Interval, Lane, other

# DLPack's device types, as the runtime's copy takes them.
DEVICE_TYPE = {"cpu": 1, "gpu": 4}
TRANSFER = "vm.builtin.to_device"
ROWS_TRANSFER = "vm.builtin.rows_to_device"
EXCHANGE = "vm.builtin.exchange_rows"
TO_TEXTURE = "syncnas.opencl.to_texture"


def transfer(
    value: relax.Expr, lane: Lane, rows: Interval | None = None, axis: int = ROWS
) -> relax.Call:
    """The call that copies a tensor to ``lane``; with ``rows``, what its other rows hold is open."""
    type_ = tensor_type(shape_of(value), dtype_of(value))
    numbers = (DEVICE_TYPE[lane], 0)
    if rows is None:
        return relax.op.call_pure_packed(TRANSFER, value, *numbers, ty_args=[type_])
    numbers += (axis, rows[0], rows[1] - rows[0])
    return relax.op.call_pure_packed(ROWS_TRANSFER, value, *numbers, ty_args=[type_])


def texture(constant: relax.Expr) -> relax.Call:
    """The call that makes a texture on the GPU of a constant ``[rows, ..., 4]``."""
    type_ = tensor_type(shape_of(constant), dtype_of(constant))
    return relax.op.call_pure_packed(TO_TEXTURE, constant, 0, ty_args=[type_])


def exchange(
    own: relax.Expr, source: relax.Expr, first: int, source_first: int, rows: int, axis: int = ROWS
) -> relax.Call:
    """The call that gives ``own``, from row ``first`` on, ``rows`` rows of the other lane's ``source``."""
    type_ = tensor_type(shape_of(own), dtype_of(own))
    numbers = (axis, first, source_first, rows)
    return relax.op.call_pure_packed(EXCHANGE, own, source, *numbers, ty_args=[type_])


@tvm.transform.module_pass(opt_level=0, name="InsertTransfers")
class InsertTransfers:
    """Make data movement explicit, by demand: only a lane that reads a value gets it, and of a
    feature map the rows that it reads.

    A join becomes a lane function on each lane that reads its value; an exchange of partial sums is
    then one transfer in each direction. Calls of one phase are emitted together: first everything
    that moves, then the GPU lane's calls, which only enqueue, then the CPU lane's, so that the lanes
    overlap. The model's inputs and outputs are on the CPU.

    A join that only puts bands of rows together (a *seam*) runs nowhere: each lane that reads its
    value receives the rows that it reads and lacks, in a tensor that its own band was made in. Rows that
    a lane computes first leave before it computes the rest: the GPU lane's are on their way before its
    rest is enqueued, and the CPU lane computes its rest once the GPU lane has what comes next. Where
    the lanes' types differ (``converting``) such joins run as all others.

    Before::

        def main(x): return r0_join0(r0_p0_cpu(x), r0_p0_gpu(x))

    After::

        def main(x):
            x_gpu = to_device(x, gpu)
            b = r0_p0_gpu(x_gpu)
            a = r0_p0_cpu(x)
            return r0_join0_cpu(a, to_device(b, cpu))
    """

    def __init__(self, converting: bool = False) -> None:
        self.converting = converting

    def transform_module(
        self, mod: tvm.IRModule, _context: tvm.transform.PassContext
    ) -> tvm.IRModule:
        """Rewrite ``main``; joins are replaced by their copies on the lanes."""
        return _Mover(mod, self.converting).run()


class _Mover:
    def __init__(self, mod: tvm.IRModule, converting: bool) -> None:
        self._main = calls_of(mod, mod["main"])
        self._seams = {} if converting else find_seams(self._main)
        self._builder = relax.BlockBuilder()
        # Where each value of the old main is, as values of the new main.
        self._at: dict[relax.Var, dict[Lane, relax.Expr]] = {}
        self._joins: dict[relax.Var, CallSite] = {}
        self._functions: dict[tvm.ir.GlobalVar, relax.Function] = {}
        self._copies: dict[tuple[str, Lane], tvm.ir.GlobalVar] = {}
        # Rows of the GPU lane that are on the CPU before the GPU lane has the rest of its band...
        self._sent: dict[relax.Var, relax.Expr] = {}
        # ... and the CPU lane's calls that make the rest of its own, until they are emitted.
        self._late: list[CallSite] = []
        self._rests = {
            piece.var for seam in self._seams.values() for piece in seam.pieces["cpu"][1:]
        }

    def run(self) -> tvm.IRModule:
        main = self._main
        params = fresh_params(main.params)
        for old, new in zip(main.params, params, strict=True):
            self._at[old] = {"cpu": new}

        def body() -> list[relax.Expr]:
            for group in _together(main.calls):
                self._emit_group(group)
            self._catch_up()
            return [self._get(output, "cpu") for output in main.outputs]

        attrs = {"num_input": len(params)}
        emit_function(self._builder, "main", params, body, attrs, private=False)
        result = self._builder.get()
        for callee, function in self._functions.items():
            result[callee] = function
        return result

    def _emit_group(self, group: list[CallSite]) -> None:
        if group[0].join:
            for call in group:
                (result,) = call.results
                self._joins[result] = call  # type: ignore[index]
                self._at[result] = {}  # type: ignore[index]
            return
        # Reading from the GPU waits for its queue, so that comes before new work is enqueued there;
        # joins of the CPU lane come after, while the GPU lane already runs.
        made = {result for call in group for result in call.results}
        for call in group:
            if call.lane == "cpu":
                for arg in call.args:
                    if arg not in made:
                        self._fetch(arg)
        for call in group:
            if call.lane == "gpu":
                self._call(call, "gpu")
                self._send_early(call)
        self._catch_up()
        for call in group:
            if call.lane == "cpu" and self._rests.intersection(call.results):
                self._late.append(call)
            elif call.lane == "cpu":
                self._call(call, "cpu")

    def _catch_up(self) -> None:
        """The rest of the CPU lane's band, which nobody has waited for until now."""
        late, self._late = self._late, []
        for call in late:
            self._call(call, "cpu")

    def _send_early(self, call: CallSite) -> None:
        """Begin to move what ``call`` has computed first, and the CPU lane lacks."""
        for seam in self._seams.values():
            border = seam.early("cpu")
            if border is not None and border.var in call.results:
                begin = seam.begin("gpu", border)
                first, last = seam.missing("cpu")
                source = self._at[border.var]["gpu"]
                rows = (first - begin, last - begin)
                self._sent[border.var] = self._move(source, "cpu", rows)

    def _fetch(self, value: relax.Var) -> None:
        """Move to the CPU what ``value`` is made of, without running joins."""
        seam = self._seams.get(value)
        if seam is not None and (seam.early("cpu") is not None or not seam.lacks("cpu")):
            return  # what is missing is on its way
        if value in self._joins and value not in self._seams and not self._at[value]:
            for arg in self._joins[value].args:
                self._fetch(arg)
        else:
            self._get(value, "cpu")

    def _call(self, call: CallSite, lane: Lane) -> None:
        args = [self._get(arg, lane) for arg in call.args]
        name = call.callee.name_hint
        if rooms := rooms_of(call, self._seams):
            callee = with_room(self._builder, name, call.function, rooms)
            args += [self._at[room.into][lane] for room in rooms.values() if room.into is not None]
        else:
            callee = call.callee
            self._functions[callee] = call.function
        value = self._builder.emit(relax.Call(callee, args), name_hint=name)
        many = len(call.results) > 1
        for i, result in enumerate(call.results):
            if result is not None:
                item = self._builder.emit(relax.TupleGetItem(value, i)) if many else value
                self._at[result] = {lane: item}

    def _get(self, value: relax.Var, lane: Lane) -> relax.Expr:
        """``value`` on ``lane``: where it is already, received, by running its join there, or moved."""
        if value not in self._at:
            self._catch_up()
        at = self._at[value]
        if lane not in at:
            if value in self._seams:
                at[lane] = self._receive(self._seams[value], lane)
            elif value in self._joins:
                at[lane] = self._run_join(self._joins[value], lane)
            else:
                at[lane] = self._move(at[other(lane)], lane, self._rows(value, lane))
        return at[lane]

    def _move(self, value: relax.Expr, lane: Lane, rows: Interval | None) -> relax.Expr:
        return self._builder.emit(transfer(value, lane, rows), name_hint=f"{value.name}_on_{lane}")

    def _rows(self, value: relax.Var, lane: Lane) -> Interval | None:
        """The rows of ``value`` that ``lane`` reads; None for all."""
        shape = shape_of(value)
        if len(shape) != 4:
            return None
        wanted = rows_wanted(self._main, value, shape[ROWS]).get(lane)
        return None if wanted in (None, (0, shape[ROWS])) else wanted

    def _receive(self, seam: RowSeam, lane: Lane) -> relax.Expr:
        """The tensor of the lane's own band with the rows from the other lane that it reads."""
        there, missing = other(lane), seam.missing(lane)
        own = self._get(seam.pieces[lane][-1].var, lane)
        for piece in seam.pieces[there]:
            first, last = max(missing[0], piece.rows[0]), min(missing[1], piece.rows[1])
            if first < last:
                sent = lane == "cpu" and piece.var in self._sent
                source = self._sent[piece.var] if sent else self._get(piece.var, there)
                begin = first - seam.begin(there, piece)
                call = exchange(own, source, first, begin, last - first)
                own = self._builder.emit(call, name_hint=f"{own.name}_and_{there}")
        return own

    def _run_join(self, call: CallSite, lane: Lane) -> relax.Expr:
        args = [self._get(arg, lane) for arg in call.args]
        key = (call.callee.name_hint, lane)
        if key not in self._copies:
            name = f"{call.callee.name_hint}_{lane}"
            attrs = lane_attrs(call.region, lane, call.phase)
            # Two functions may not define the same variables.
            fresh = relax.utils.copy_with_new_vars(call.function)
            function = fresh.without_attr(JOIN_ATTR).with_attrs(attrs)
            self._copies[key] = self._builder.add_func(function, name)
        return self._builder.emit(relax.Call(self._copies[key], args))


def _together(calls: tuple[CallSite, ...]) -> list[list[CallSite]]:
    """Consecutive calls of one region and phase, joins apart from lane functions."""
    groups: list[list[CallSite]] = []
    for call in calls:
        key = (call.region, call.phase, call.join is not None)
        last = groups[-1][0] if groups else None
        if last and (last.region, last.phase, last.join is not None) == key:
            groups[-1].append(call)
        else:
            groups.append([call])
    return groups
