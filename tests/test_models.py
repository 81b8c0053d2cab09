"""The reference CNN compared with its description."""

import pytest
import torch
from torch import nn

from lightning_modules import MLP, MNISTCNN


def test_the_reference_cnn_has_the_parameters_of_its_description():
    model = MNISTCNN()
    sizes = [sum(parameter.numel() for parameter in layer.parameters()) for layer in model.layers]
    assert [size for size in sizes if size] == [
        5 * 5 * 1 * 32 + 32,
        3 * 3 * 32 * 64 + 64,
        3 * 3 * 64 * 128 + 128,
        2048 * 5000 + 5000,
        5000 * 500 + 500,
        500 * 10 + 10,
    ]
    assert sum(sizes) == 12_843_694


def test_the_images_shrink_from_28_to_14_to_7_to_4():
    images = torch.zeros(2, 1, 28, 28)
    widths = []
    for layer in MNISTCNN(channels=(2, 3, 4), hidden=(5, 6)).layers:
        images = layer(images)
        if isinstance(layer, nn.MaxPool2d):
            widths.append(images.shape[-1])
    assert widths == [14, 7, 4]
    assert images.shape == (2, 10)


def test_the_last_pooling_keeps_the_odd_row_and_column():
    pool = next(layer for layer in reversed(list(MNISTCNN().layers)) if isinstance(layer, nn.MaxPool2d))
    image = torch.arange(49.0).reshape(1, 1, 7, 7)
    assert pool(image)[0, 0].tolist() == [[8, 10, 12, 13], [22, 24, 26, 27], [36, 38, 40, 41], [43, 45, 47, 48]]


def test_dropout_drops_a_fifth_of_the_first_dense_layer_in_training_only():
    dropouts = [layer for layer in MNISTCNN().layers if isinstance(layer, nn.Dropout)]
    assert [layer.p for layer in dropouts] == [0.2]


def test_truncated_normal_weights_stay_within_two_deviations_and_biases_are_zero():
    torch.manual_seed(0)
    for layer in MNISTCNN(init="truncated_normal").layers:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            assert layer.weight.abs().max() <= 0.2
            assert not layer.bias.any()
    # A normal distribution cut at two deviations has 0.8796 of its deviation.
    dense = MNISTCNN(init="truncated_normal").layers[10]
    assert dense.weight.std().item() == pytest.approx(0.08796, rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        ({"channels": (1, 2)}, "channels must be three widths"),
        ({"hidden": (0, 5)}, "hidden must be two widths"),
        ({"dropout": 1.0}, "0 <= dropout < 1"),
        ({"num_classes": 0}, "num_classes >= 1"),
        ({"init": "zeros"}, "init"),
    ],
)
def test_impossible_arguments_are_refused_with_the_rule(arguments: dict, rule: str):
    with pytest.raises(ValueError, match=rule):
        MNISTCNN(**arguments)


def test_a_dense_network_has_the_layers_that_are_asked_for():
    widths = [layer.out_features for layer in MLP(layers=3, neurons=7).layers if isinstance(layer, nn.Linear)]
    assert widths == [7, 7, 7, 10]
    assert MLP(inputs=4, neurons=(4, 6), num_classes=3)(torch.zeros(2, 4)).shape == (2, 3)
    assert MLP(layers=0)(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_widths_that_are_not_one_for_each_layer_are_refused():
    with pytest.raises(ValueError, match=r"one per layer, but got neurons=\(5,\)"):
        MLP(neurons=(5,))


def test_the_weights_of_a_dense_network_are_as_they_are_asked_for():
    torch.manual_seed(0)
    spread = {
        init: MLP(inputs=400, neurons=400, init=init).layers[1].weight for init in ("glorot_uniform", "he_normal")
    }
    assert spread["glorot_uniform"].abs().max().item() == pytest.approx((6 / 800) ** 0.5, rel=1e-3)
    assert spread["he_normal"].std().item() == pytest.approx((2 / 400) ** 0.5, rel=0.02)
