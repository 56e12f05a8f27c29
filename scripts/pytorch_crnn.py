"""The same network in PyTorch, which the benchmark compares with. Needs the extra `bench`."""

import copy
import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]

POOLS = {1: (2, 2), 2: (2, 2), 4: (2, 1), 6: (2, 1)}  # strides of the pools after convolutions
Settings = tuple[torch.dtype, torch.memory_format, bool]
"""The dtype of the activations, the memory layout, and whether the network is compiled."""

VARIANTS: dict[str, Settings] = {
    f"PyTorch {precision} {layout}{' compiled' if compiled else ''}": (dtype, memory, compiled)
    for compiled in (False, True)
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))
    for layout, memory in (
        ("default layout", torch.contiguous_format),
        ("channels_last", torch.channels_last),
    )
}


class TorchCRNN(nn.Module):
    """The CRNN for images without padding, normalized as with `batch_norm="bgshih"`."""

    def __init__(
        self, variables: Mapping[str, Any], memory_format: torch.memory_format = torch.channels_last
    ) -> None:
        """Creates a network with the parameters and statistics of a `crnn_jax.models.CRNN`."""
        super().__init__()
        params, statistics = variables["params"], variables["batch_stats"]["conv_stack"]
        layers: list[nn.Module] = []
        for layer in range(1, 8):
            conv = params["conv_stack"][f"conv{layer}"]
            height, width, inputs, outputs = conv["kernel"].shape
            padding = 0 if layer == 7 else 1
            layers.append(nn.Conv2d(inputs, outputs, (height, width), padding=padding))
            _fill(layers[-1], weight=conv["kernel"].transpose(3, 2, 0, 1), bias=conv["bias"])
            if f"norm{layer}" in statistics:
                norm, stats = params["conv_stack"][f"norm{layer}"], statistics[f"norm{layer}"]
                layers.append(nn.BatchNorm2d(outputs))
                _fill(layers[-1], weight=norm["scale"], bias=norm["bias"])
                _fill(layers[-1], running_mean=stats["mean"], running_var=stats["var"])
            layers.append(nn.ReLU(inplace=True))
            if layer in POOLS:
                layers.append(nn.MaxPool2d(2, POOLS[layer], padding=(0, POOLS[layer][1] % 2)))
        self.conv_stack = nn.Sequential(*layers)
        self.conv_stack.to(memory_format=memory_format)  # pyright: ignore[reportCallIssue]
        self.memory_format = memory_format
        self.bilstm1 = _bilstm(params["bilstm1"])
        self.between = _linear(params["between"])
        self.bilstm2 = _bilstm(params["bilstm2"])
        self.head = _linear(params["head"])

    def forward(self, images: Any) -> Any:
        """Maps uint8 images (B, H, W, C) to logits (B, T, K)."""
        x = images.permute(0, 3, 1, 2).float() / 127.5 - 1
        x = self.conv_stack(x.contiguous(memory_format=self.memory_format))
        x, _ = self.bilstm1(x.squeeze(2).transpose(1, 2))
        x, _ = self.bilstm2(self.between(x))
        return self.head(x)


def _fill(module: Any, **arrays: Any) -> None:
    with torch.no_grad():
        for name, array in arrays.items():
            getattr(module, name).copy_(torch.tensor(np.asarray(array)))


def _linear(params: Mapping[str, Any]) -> nn.Linear:
    linear = nn.Linear(*params["kernel"].shape)
    _fill(linear, weight=params["kernel"].T, bias=params["bias"])
    return linear


def _bilstm(params: Mapping[str, Any]) -> nn.LSTM:
    inputs, hidden = params["forward_input"]["kernel"].shape[0], params["forward"]["recurrent"]
    lstm = nn.LSTM(inputs, hidden["kernel"].shape[0], batch_first=True, bidirectional=True)
    for direction, suffix in (("forward", "l0"), ("backward", "l0_reverse")):
        projection, bias = params[f"{direction}_input"], params[f"{direction}_input"]["bias"]
        arrays = {
            "weight_ih": projection["kernel"].T,
            "weight_hh": params[direction]["recurrent"]["kernel"].T,
            "bias_ih": bias,
            "bias_hh": np.zeros_like(bias),  # PyTorch has two biases
        }
        _fill(lstm, **{f"{name}_{suffix}": array for name, array in arrays.items()})
    return lstm


def training_step(
    variables: Mapping[str, Any],
    batch: Mapping[str, np.ndarray],
    settings: Settings,
    learning_rate: float,
) -> Callable[[], float]:
    """Returns a function that takes a step of Adam on the batch and returns the loss."""
    dtype, memory_format, compiled = settings
    network = TorchCRNN(variables, memory_format).train()
    run = torch.compile(network) if compiled else network
    optimizer = torch.optim.Adam(network.parameters(), learning_rate)
    tensors = {name: torch.from_numpy(array) for name, array in batch.items()}
    ctc = nn.CTCLoss()

    def step() -> float:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            logits = run(tensors["images"])
        log_probabilities = logits.float().log_softmax(-1).transpose(0, 1)
        steps = torch.full((len(logits),), logits.shape[1], dtype=torch.int32)
        loss = ctc(log_probabilities, tensors["label_ids"], steps, tensors["label_lengths"])
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def inference(
    variables: Mapping[str, Any], images: np.ndarray, settings: Settings
) -> Callable[[], np.ndarray]:
    """Returns a function that computes the logits of the images."""
    dtype, memory_format, compiled = settings
    network = TorchCRNN(variables, memory_format).eval()
    run = torch.compile(network) if compiled else network
    tensor = torch.from_numpy(images)

    @torch.inference_mode()
    def logits() -> np.ndarray:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            return run(tensor).float().numpy()

    return logits


def onnx_inference(variables: Mapping[str, Any], images: np.ndarray) -> Callable[[], np.ndarray]:
    """Returns a function that computes the logits with onnxruntime, in fp32."""
    import onnxruntime

    exported: Any = io.BytesIO()  # PyTorch declares it as a path
    network = copy.deepcopy(TorchCRNN(variables, torch.contiguous_format)).eval()
    torch.onnx.export(
        network, (torch.from_numpy(images),), exported, input_names=["images"], dynamo=False
    )
    session = onnxruntime.InferenceSession(exported.getvalue(), providers=["CPUExecutionProvider"])

    def logits() -> np.ndarray:
        outputs: Any = session.run(None, {"images": images})
        return outputs[0]

    return logits
