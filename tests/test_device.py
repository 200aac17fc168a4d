"""Devices: choices, refusals, the reason in words, and what autocast does."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from gptlite import device as device_module
from gptlite.device import Hardware, choose_hardware, keeping_freed_memory
from gptlite.errors import UsageError


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    """A test that sets the number of threads leaves the others' alone."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def bare_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without GPU and without instructions for bf16 and int8, whatever this one is."""
    pretend(monkeypatch, cuda=False, mps=False, amx=False)


def pretend(
    monkeypatch: pytest.MonkeyPatch, *, cuda: bool, mps: bool, amx: bool, capability: int = 9, vnni: bool = False
) -> None:
    monkeypatch.setattr(device_module, "int8_in_hardware", lambda: vnni)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (capability, 0))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: amx, raising=False)


@pytest.mark.parametrize(
    ("cuda", "mps", "chosen", "reason"),
    [
        (True, True, "cuda", "the fastest device found"),
        (True, False, "cuda", "the fastest device found"),
        (False, True, "mps", "the fastest device found"),
        (False, False, "cpu", "no GPU found"),
    ],
)
def test_the_fastest_device_is_chosen(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, chosen: str, reason: str
) -> None:
    pretend(monkeypatch, cuda=cuda, mps=mps, amx=False)
    hardware = choose_hardware()
    assert (hardware.device.type, hardware.reason) == (chosen, reason)
    assert hardware.bf16 == (chosen == "cuda")


def test_a_device_that_was_asked_for_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, cuda=True, mps=True, amx=False)
    for name in ("cpu", "cuda", "mps"):
        hardware = choose_hardware(name)
        assert (hardware.device.type, hardware.reason) == (name, "as asked")


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_a_device_that_is_missing_is_refused(bare_cpu: None, name: str) -> None:
    with pytest.raises(UsageError, match=f"no '{name}' device to torch; use `device='auto'` or `device='cpu'`"):
        choose_hardware(name)


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("device", "tpu", "auto, cpu, cuda, mps"),
        ("dtype", "fp16", "auto, fp32, bf16, int8"),
        ("compile", "yes", "auto, on, off"),
    ],
)
def test_unknown_choices_are_refused_by_name(option: str, value: str, allowed: str) -> None:
    with pytest.raises(UsageError, match=f"`{option}` must be one of {allowed}, not '{value}'"):
        choose_hardware(**{option: value})


@pytest.mark.parametrize("threads", [0, -1])
def test_threads_must_be_at_least_one(threads: int) -> None:
    with pytest.raises(UsageError, match=f"`threads` must be between 1 and 1,024, not {threads}"):
        choose_hardware(threads=threads)


def test_threads_are_set_and_reported(bare_cpu: None) -> None:
    hardware = choose_hardware(threads=1)
    assert hardware.threads == torch.get_num_threads() == 1
    assert hardware.describe() == "cpu, fp32, 1 thread: no GPU found"


def test_threads_not_given_are_left_alone(bare_cpu: None) -> None:
    before = torch.get_num_threads()
    assert choose_hardware().threads == before == torch.get_num_threads()


@pytest.mark.parametrize(
    ("device", "amx", "capability", "dtype", "bf16"),
    [
        ("cpu", False, 0, "auto", False),
        ("cpu", True, 0, "auto", False),
        ("cpu", True, 0, "fp32", False),
        ("cuda", False, 7, "auto", False),
        ("cuda", False, 8, "auto", True),
        ("cuda", False, 9, "fp32", False),
        ("mps", True, 9, "auto", False),
    ],
)
def test_bf16_is_automatic_only_in_hardware(
    monkeypatch: pytest.MonkeyPatch, device: str, amx: bool, capability: int, dtype: str, bf16: bool
) -> None:
    pretend(monkeypatch, cuda=True, mps=True, amx=amx, capability=capability)
    hardware = choose_hardware(device, dtype)
    assert (hardware.bf16, hardware.reason) == (bf16, "as asked")
    assert ("dtype" in hardware.open) is (device == "cpu" and amx and dtype == "auto"), "training decides"


@pytest.mark.parametrize(
    ("device", "amx", "vnni", "dtype", "int8", "is_open"),
    [
        ("cpu", False, True, "auto", False, True),
        ("cpu", True, True, "auto", False, True),
        ("cpu", False, False, "auto", False, False),
        ("cpu", False, True, "fp32", False, False),
        ("cpu", False, True, "int8", True, False),
        ("cuda", False, True, "auto", False, False),
    ],
)
def test_int8_is_for_training_on_cpus_that_multiply_it(
    monkeypatch: pytest.MonkeyPatch, device: str, amx: bool, vnni: bool, dtype: str, int8: bool, is_open: bool
) -> None:
    pretend(monkeypatch, cuda=True, mps=True, amx=amx, vnni=vnni)
    hardware = choose_hardware(device, dtype)
    assert (hardware.int8, "dtype" in hardware.open) == (int8, is_open)
    assert hardware.dtype == ("int8" if int8 else "bf16" if device == "cuda" else "fp32")
    assert not hardware.for_reading().int8, "a model's figures do not depend on it"


def test_int8_where_it_does_not_help_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, cuda=True, mps=False, amx=False, vnni=False)
    with pytest.raises(UsageError, match="this processor has no fast products of 8-bit integers; use `dtype='auto'`"):
        choose_hardware("cpu", "int8")
    with pytest.raises(UsageError, match="int8 is for CPUs; use"):
        choose_hardware("cuda", "int8")


@pytest.mark.parametrize(
    ("vnni", "exact", "expected"), [(True, True, True), (False, True, False), (True, False, False), (True, None, False)]
)
def test_int8_counts_as_in_hardware_where_it_has_instructions_and_exact_sums(
    monkeypatch: pytest.MonkeyPatch, vnni: bool, exact: bool | None, expected: bool
) -> None:
    """Processors without VNNI instructions overflow in 16 bits; some versions of torch multiply on GPUs only."""

    def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        if exact is None:
            raise RuntimeError("not implemented for CPUs")
        return torch.full((1, 1), -256 * 127**2 + (not exact))

    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: vnni, raising=False)
    monkeypatch.setattr(device_module, "multiply_int8", product)
    device_module.int8_in_hardware.cache_clear()
    try:
        assert device_module.int8_in_hardware() is expected
    finally:
        device_module.int8_in_hardware.cache_clear()


def test_emulated_bf16_comes_with_a_warning(bare_cpu: None) -> None:
    hardware = choose_hardware(dtype="bf16")
    assert hardware.bf16
    assert hardware.reason == "no GPU found; bf16 is emulated here and very slow"


@pytest.mark.parametrize(
    ("device", "choice", "expected"),
    [
        ("cpu", "auto", False),
        ("cpu", "on", True),
        ("cpu", "off", False),
        ("cuda", "auto", False),
        ("cuda", "on", True),
        ("cuda", "off", False),
        ("mps", "auto", False),
    ],
)
def test_compilation(monkeypatch: pytest.MonkeyPatch, device: str, choice: str, expected: bool) -> None:
    pretend(monkeypatch, cuda=True, mps=True, amx=False)
    assert choose_hardware(device, compile=choice).compile is expected


def test_the_description_says_everything() -> None:
    cuda = Hardware(torch.device("cuda"), bf16=True, threads=8, compile=True, reason="as asked")
    assert cuda.describe() == "cuda, bf16, compiled: as asked"
    cpu = Hardware(torch.device("cpu"), bf16=False, threads=2, compile=False, reason="no GPU found")
    assert cpu.describe() == "cpu, fp32, 2 threads: no GPU found"


def test_autocast_leaves_fp32_alone(bare_cpu: None) -> None:
    a, b = torch.randn(5, 5), torch.randn(5, 5)
    with choose_hardware("cpu", "fp32").autocast():
        product = a @ b
    assert product.dtype == torch.float32
    assert torch.equal(product, a @ b)


def test_autocast_multiplies_in_bf16() -> None:
    a, b = torch.randn(5, 5), torch.randn(5, 5)
    with choose_hardware("cpu", "bf16").autocast():
        product = a @ b
    assert product.dtype == torch.bfloat16
    assert torch.allclose(product.float(), a @ b, atol=0.1)
    assert (a @ b).dtype == torch.float32


@pytest.mark.parametrize(("name", "before", "rough"), [("fp32_precision", "none", "tf32"), ("allow_tf32", False, True)])
def test_products_are_rough_inside_and_as_before_after(
    monkeypatch: pytest.MonkeyPatch, name: str, before: object, rough: object
) -> None:
    """In both languages of torch: the one of 2.9, and the older one."""
    matmul = SimpleNamespace(**{name: before})
    monkeypatch.setattr(torch.backends.cuda, "matmul", matmul)
    gpu = Hardware(torch.device("cuda"), bf16=True, threads=8, compile=False, reason="as asked")
    with gpu.rough_products():
        assert vars(matmul) == {name: rough}
    assert vars(matmul) == {name: before}
    with pytest.raises(RuntimeError, match="in the midst"), gpu.rough_products():
        raise RuntimeError("in the midst")
    assert vars(matmul) == {name: before}
    for device, bf16 in (("cpu", True), ("cpu", False), ("cuda", False), ("mps", True)):
        with Hardware(torch.device(device), bf16=bf16, threads=8, compile=False, reason="").rough_products():
            assert vars(matmul) == {name: before}


def test_this_torch_takes_both_values() -> None:
    before = torch.get_float32_matmul_precision()
    with Hardware(torch.device("cuda"), bf16=True, threads=8, compile=False, reason="").rough_products():
        pass
    assert torch.get_float32_matmul_precision() == before


def test_the_defaults_are_among_the_choices() -> None:
    for choices in (device_module.DEVICES, device_module.DTYPES, device_module.COMPILE):
        assert choices[0] == "auto"


# -- Memory


def write(folder: Path, **files: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")
    return folder


def test_a_container_of_control_groups_2_limits_memory(tmp_path: Path) -> None:
    """Cached files do not count as used; the tightest limit on the way up is the one that kills."""
    proc = tmp_path / "cgroup"
    proc.write_text("0::/box/inner\n")
    root = tmp_path / "fs"
    write(root / "box/inner", memory__max="max", memory__current=70, memory__stat="inactive_file 10")
    write(root / "box", memory__max=1000, memory__current=700, memory__stat="anon 500\ninactive_file 150")
    assert device_module._cgroup_memory(proc, root) == 1000 - (700 - 150)
    write(root, memory__max=100, memory__current=90, memory__stat="inactive_file 0")
    assert device_module._cgroup_memory(proc, root) == 10


def test_a_container_of_control_groups_1_limits_memory(tmp_path: Path) -> None:
    """Inside, the path is that of the host, which does not exist; the limit is at the mount."""
    proc, root = tmp_path / "cgroup", tmp_path / "fs"
    proc.write_text("3:cpu,cpuacct:/docker/1f\n2:memory:/docker/1f\n")
    stat = "total_inactive_file 5"
    write(root / "memory", memory__limit_in_bytes=200, memory__usage_in_bytes=25, memory__stat=stat)
    assert device_module._cgroup_memory(proc, root) == 180


def test_without_control_groups_the_host_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert device_module._cgroup_memory(tmp_path / "none", tmp_path) is None
    for host, group, left in ((10, None, 10), (10, 4, 4), (3, 4, 3), (None, None, None)):
        monkeypatch.setattr(device_module, "_host_memory", lambda host=host: host)
        monkeypatch.setattr(device_module, "_cgroup_memory", lambda group=group: group)
        assert device_module.available_memory(torch.device("cpu")) == left


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators are left alone")
def test_what_keeps_freed_memory_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    libc, calls = ctypes.CDLL(None), []

    def mallopt(option: int, value: int) -> None:
        assert libc.mallopt(option, value) == 1, "glibc knows the option and takes the value"
        calls.append((option, value))

    watched = SimpleNamespace(mallopt=mallopt, malloc_trim=libc.malloc_trim)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: watched)
    with keeping_freed_memory():
        kept = dict(calls)
    assert kept[-1] > dict(calls)[-1] > 0, "the heap is trimmed again"
    assert kept.keys() == dict(calls).keys() and len(calls) == 2 * len(kept)
