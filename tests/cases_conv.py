"""Rows of the table: convolutions, pools, normalizations over images and batches, dropout."""

import functools

from _case import Case

import fbp

# Norms of channels so few, and blocks so small, that they compile quickly.
_groups_of_three = functools.partial(fbp.GroupNorm, 3)


def make_cases() -> list[Case]:
    """Builds these rows; two calls build equal layers."""
    conv, relu, tanh, norm = fbp.Conv2D, fbp.Relu(), fbp.Tanh(), fbp.BatchNorm
    convnet = fbp.models.convnet
    block = fbp.Serial(conv(3, 3, 3, bias=False), fbp.GroupNorm(3, 3), relu)
    return [
        *_convolutions(),
        *_convolutions_of_sequences(),
        *_from_small_to_large(),
        *_pools(),
        *_norms(),
        Case("dropout", fbp.Dropout(0.5), (7, 5), noisy=True),
        Case("dropout/no_batch", fbp.Dropout(0.3), (5,), batch=0, noisy=True),
        Case("dropout/image", fbp.Dropout(0.5), (2, 3, 5, 2), noisy=True),
        Case(
            "dropout/recomputed",
            fbp.Serial(fbp.Dense(3, 5), fbp.Tanh(), fbp.Dropout(0.5), fbp.Dense(5, 2)),
            (7, 3),
            noisy=True,
        ),
        Case(
            "dropout/stack",
            fbp.Stack(fbp.Residual(fbp.Serial(fbp.Dense(5, 5), fbp.Dropout(0.5))), 3),
            (7, 5),
            noisy=True,
            widens=True,
        ),
        Case(
            "dropout/remat",
            fbp.Remat(fbp.Serial(fbp.Dropout(0.5), fbp.Dense(5, 5), fbp.Dropout(0.5))),
            (7, 5),
            noisy=True,
        ),
        Case("sum", fbp.Sum(fbp.Dense(3, 5), fbp.Dense(3, 5, bias=False)), (7, 3)),
        Case("sum/named", fbp.Sum(a=fbp.Dense(3, 3), b=fbp.Dense(3, 3)), (2, 7, 3), batch=2),
        Case("sum/one", fbp.Sum(fbp.Dense(3, 3)), (3, 3)),
        Case(
            "sum/recomputed",
            fbp.Serial(fbp.Dense(3, 5), fbp.Sum(fbp.Tanh(), fbp.Scale((5,))), fbp.Dense(5, 2)),
            (7, 3),
        ),
        Case(
            "sum/noisy",
            fbp.Serial(fbp.Sum(fbp.Dropout(0.5), fbp.Dropout(0.5)), fbp.Dense(5, 2)),
            (7, 5),
            noisy=True,
        ),
        Case(
            "sum/downsampling",
            fbp.Sum(skip=conv(2, 3, 1, 2), f=fbp.Serial(conv(2, 3, 3, 2), relu, conv(3, 3, 3))),
            (2, 5, 7, 2),
        ),
        Case("conv/residual_stack", fbp.Stack(fbp.Residual(block), 2), (2, 5, 3, 3), widens=True),
        Case("conv/remat", fbp.Remat(fbp.Serial(block, fbp.MaxPool2D(2))), (2, 5, 3, 3)),
        Case(
            "conv/to_dense",
            fbp.Serial(conv(2, 3, 3), relu, fbp.MaxPool2D(2), fbp.Flatten(), fbp.Dense(18, 5)),
            (3, 5, 7, 2),
        ),
        # Smooth: 8 bits move what a norm over a few numbers makes, and would flip a relu at random.
        Case("convnet", convnet(2, 5, (3, 6), 1, _groups_of_three, tanh), (2, 5, 3, 2)),
        Case("convnet/two_blocks", convnet(1, 3, (2,), 2, norm, tanh), (5, 3, 5, 1)),
    ]


def _convolutions() -> list[Case]:
    conv = fbp.Conv2D
    pads = ((2, 0), (1, 3))
    return [
        Case("conv", conv(3, 5), (2, 7, 5, 3)),
        Case("conv/no_batch", conv(3, 5, (3, 2)), (5, 7, 3), batch=0),
        Case("conv/two_batch_axes", conv(3, 2), (2, 3, 5, 7, 3), batch=2),
        Case("conv/equal", conv(3, 3), (3, 3, 3, 3)),
        Case("conv/one", conv(1, 1, 1), (1, 1, 1, 1)),
        Case("conv/one_pixel", conv(2, 3, 3), (2, 1, 1, 2)),
        Case("conv/pointwise", conv(3, 5, 1), (2, 5, 7, 3)),
        Case("conv/no_bias", conv(3, 5, 2, bias=False), (2, 5, 7, 3)),
        Case("conv/valid", conv(2, 3, (3, 5), padding="VALID"), (2, 7, 5, 2)),
        Case("conv/whole_image", conv(2, 3, (5, 7), padding="VALID"), (3, 5, 7, 2)),
        Case("conv/padded", conv(2, 3, 3, padding=2), (2, 5, 3, 2)),
        Case("conv/padded_by_more_than_the_window", conv(2, 3, 2, padding=3), (2, 3, 5, 2)),
        Case("conv/asymmetric", conv(2, 3, (3, 2), padding=pads), (2, 5, 7, 2)),
        Case("conv/strided", conv(2, 3, 3, 2), (2, 7, 5, 2)),
        Case(
            "conv/stride_leaves_pixels_over",
            conv(2, 3, 2, (3, 2), padding="VALID"),
            (2, 7, 5, 2),
            notes="the last rows and columns are in no window: their gradient is 0",
        ),
        Case("conv/stride_beyond_the_window", conv(2, 3, 1, 2), (2, 5, 6, 2)),
        Case("conv/stride_beyond_the_image", conv(2, 3, 2, 7), (2, 3, 5, 2)),
        Case("conv/dilated", conv(2, 3, (3, 2), dilation=2), (2, 7, 5, 2)),
        Case("conv/dilated_valid", conv(2, 3, 2, padding="VALID", dilation=(3, 2)), (2, 7, 5, 2)),
        Case("conv/groups", conv(4, 6, 3, groups=2), (2, 5, 3, 4)),
        Case("conv/depthwise", conv(3, 3, 3, groups=3), (2, 5, 7, 3)),
        Case("conv/depthwise_times_two", conv(3, 6, 2, groups=3), (2, 5, 3, 3)),
        Case(
            "conv/everything",
            conv(4, 6, (2, 3), (3, 2), pads, (2, 1), groups=2),
            (2, 3, 7, 5, 4),
            batch=2,
        ),
        Case("conv/serial", fbp.Serial(conv(2, 3), fbp.Tanh(), conv(3, 2, 2, 2)), (2, 5, 7, 2)),
    ]


def _convolutions_of_sequences() -> list[Case]:
    conv = fbp.Conv1D
    return [
        Case("conv1d", conv(3, 5), (2, 7, 3)),
        Case("conv1d/no_batch", conv(3, 5, 2), (7, 3), batch=0),
        Case("conv1d/two_batch_axes", conv(3, 2), (2, 3, 5, 3), batch=2),
        Case("conv1d/equal", conv(3, 3), (3, 3, 3)),
        Case("conv1d/one", conv(1, 1, 1), (1, 1, 1)),
        Case("conv1d/no_bias", conv(3, 5, 4, bias=False), (2, 7, 3)),
        Case("conv1d/valid", conv(2, 3, 5, padding="VALID"), (2, 7, 2)),
        Case("conv1d/strided", conv(2, 3, 3, 2), (2, 7, 2)),
        Case("conv1d/stride_leaves_places_over", conv(2, 3, 2, 3, padding="VALID"), (2, 7, 2)),
        Case("conv1d/causal", conv(2, 3, 3, padding="CAUSAL", dilation=2), (2, 7, 2)),
        Case("conv1d/causal_strided", conv(2, 3, 4, 2, padding="CAUSAL"), (2, 7, 2)),
        Case("conv1d/causal_beyond", conv(2, 3, 3, padding="CAUSAL", dilation=5), (2, 3, 2)),
        Case("conv1d/depthwise", conv(3, 3, 3, groups=3), (2, 5, 3)),
        Case(
            "conv1d/everything",
            conv(4, 6, 3, 2, (3, 1), 2, groups=2),
            (2, 3, 7, 4),
            batch=2,
        ),
        Case(
            "conv1d/causal_stack",
            fbp.Stack(fbp.Residual(fbp.Serial(conv(3, 3, 2, padding="CAUSAL"), fbp.Tanh())), 2),
            (2, 5, 3),
            widens=True,
        ),
    ]


def _from_small_to_large() -> list[Case]:
    conv, up = fbp.ConvTranspose2D, fbp.Upsample2D
    return [
        Case("conv_transpose", conv(3, 5, 3, 2), (2, 3, 5, 3)),
        Case("conv_transpose/no_batch", conv(3, 5, (3, 2)), (5, 7, 3), batch=0),
        Case("conv_transpose/two_batch_axes", conv(3, 2, 2, 2), (2, 3, 3, 2, 3), batch=2),
        Case("conv_transpose/equal", conv(3, 3), (3, 3, 3, 3)),
        Case("conv_transpose/one", conv(1, 1, 1), (1, 1, 1, 1)),
        Case("conv_transpose/one_pixel", conv(2, 3, 3, 2), (2, 1, 1, 2)),
        Case("conv_transpose/no_bias", conv(3, 5, 2, 2, bias=False), (2, 2, 3, 3)),
        Case("conv_transpose/valid", conv(2, 3, (3, 5), 2, "VALID"), (2, 3, 2, 2)),
        Case("conv_transpose/stride_beyond_the_window", conv(2, 3, 2, 3), (2, 2, 3, 2)),
        Case("conv_transpose/valid_beyond", conv(2, 3, 1, (2, 3), "VALID"), (2, 2, 3, 2)),
        Case("conv_transpose/padded", conv(2, 3, 4, 2, 1), (2, 3, 2, 2)),
        Case("conv_transpose/dilated", conv(2, 3, 2, 2, dilation=3), (2, 3, 2, 2)),
        Case(
            "conv_transpose/everything",
            conv(4, 6, (2, 3), (3, 2), ((1, 0), (0, 2)), (2, 1), groups=2),
            (2, 3, 2, 4, 4),
            batch=2,
        ),
        Case(
            "conv_transpose/there_and_back",
            fbp.Serial(fbp.Conv2D(2, 3, 3, 2), fbp.Tanh(), conv(3, 2, 3, 2)),
            (2, 4, 6, 2),
        ),
        Case("upsample", up((3, 2)), (2, 2, 3, 5)),
        Case("upsample/no_batch", up(), (3, 2, 5), batch=0),
        Case("upsample/two_batch_axes", up(3), (2, 3, 2, 1, 2), batch=2),
        Case("upsample/by_one", up(1), (3, 3, 3, 3)),
        Case("upsample/one", up(), (1, 1, 1, 1)),
        Case(
            "upsample/recomputed",
            fbp.Serial(fbp.Conv2D(2, 3, 2), up((1, 2)), fbp.Conv2D(3, 2, 2)),
            (2, 3, 2, 2),
        ),
    ]


def _pools() -> list[Case]:
    maximum, average = fbp.MaxPool2D, fbp.AvgPool2D
    cases = []
    for name, pool in (("max_pool", maximum), ("avg_pool", average)):
        cases += [
            Case(name, pool(2), (2, 6, 4, 3)),
            Case(f"{name}/no_batch", pool((3, 2)), (6, 7, 2), batch=0),
            Case(f"{name}/two_batch_axes", pool(2), (2, 3, 5, 7, 2), batch=2),
            Case(f"{name}/one", pool(1), (1, 1, 1, 1)),
            Case(f"{name}/overlapping", pool(3, 2), (2, 7, 5, 3)),
            Case(f"{name}/stride_beyond_the_window", pool(2, 3), (2, 7, 7, 2)),
            Case(f"{name}/stride_leaves_pixels_over", pool((2, 3), (3, 2)), (2, 7, 6, 2)),
            Case(f"{name}/same", pool(3, 2, "SAME"), (2, 5, 6, 2)),
            Case(f"{name}/same_beyond_the_image", pool(5, 1, "SAME"), (2, 3, 1, 2)),
            Case(f"{name}/padded", pool((3, 2), 2, 1), (2, 5, 7, 2)),
            Case(f"{name}/asymmetric", pool(3, (1, 2), ((2, 0), (0, 1))), (3, 3, 3, 3)),
            Case(f"{name}/serial", fbp.Serial(fbp.Conv2D(2, 3), pool(2)), (2, 5, 5, 2)),
        ]
    return [
        *cases,
        Case("global_avg_pool", fbp.GlobalAvgPool2D(), (2, 5, 7, 3)),
        Case("global_avg_pool/no_batch", fbp.GlobalAvgPool2D(), (3, 3, 3), batch=0),
        Case("global_avg_pool/one", fbp.GlobalAvgPool2D(), (1, 1, 1, 1)),
        Case("flatten", fbp.Flatten(), (2, 5, 7, 3)),
        Case("flatten/no_batch", fbp.Flatten(), (5, 7, 3), batch=0),
        Case("flatten/two_axes", fbp.Flatten(axes=2), (2, 3, 5, 7), batch=2),
        Case("flatten/serial", fbp.Serial(fbp.Flatten(2), fbp.Dense(15, 2)), (7, 3, 5)),
        Case("unflatten", fbp.Unflatten((5, 7, 3)), (2, 105)),
        Case("unflatten/no_batch", fbp.Unflatten((3, 5)), (15,), batch=0),
    ]


def _norms() -> list[Case]:
    batch, fixed, group = fbp.BatchNorm, fbp.FixedBatchNorm, fbp.GroupNorm
    # A bias ahead of the norm would be taken away with the mean: its gradient is 0.
    dense, tanh = fbp.Dense(5, 5, bias=False), fbp.Tanh()
    return [
        Case("group_norm", group(2, 6), (2, 3, 5, 6)),
        Case("group_norm/no_batch", group(3, 3), (5, 7, 3), batch=0),
        Case("group_norm/two_batch_axes", group(2, 4), (2, 3, 3, 5, 4), batch=2),
        Case("group_norm/equal", group(3, 9), (3, 3, 3, 9)),
        Case("group_norm/one_group", group(1, 5), (2, 3, 7, 5)),
        Case("group_norm/one_channel", group(1, 1), (2, 3, 5, 1)),
        Case("group_norm/one_number", group(2, 2), (3, 1, 1, 2), notes="no spread: dx is 0"),
        Case("group_norm/large_eps", group(2, 4, eps=0.5), (2, 3, 5, 4)),
        Case(
            "group_norm/recomputed",
            fbp.Serial(fbp.Conv2D(2, 4, 2), group(2, 4), tanh, fbp.Conv2D(4, 2, 1)),
            (2, 3, 5, 2),
        ),
        Case("batch_norm", batch(3), (7, 3)),
        Case("batch_norm/no_batch", batch(3), (3,), batch=0, notes="no spread: dx is 0"),
        Case("batch_norm/two_batch_axes", batch(5), (3, 7, 5), batch=2),
        Case("batch_norm/image", batch(3), (2, 5, 7, 3)),
        Case("batch_norm/equal", batch(3), (3, 3, 3), batch=2),
        Case("batch_norm/one_channel", batch(1), (7, 1)),
        Case("batch_norm/one_example", batch(3), (1, 3), notes="no spread: dx is 0"),
        Case("batch_norm/large_eps", batch(3, eps=0.5), (7, 3)),
        Case(
            "batch_norm/recomputed",
            fbp.Serial(fbp.Dense(3, 5, bias=False), batch(5), tanh, fbp.Dense(5, 2)),
            (7, 3),
        ),
        Case(
            "batch_norm/stack",
            fbp.Stack(fbp.Residual(fbp.Serial(dense, batch(5), tanh)), 2),
            (7, 5),
            widens=True,
        ),
        Case("fixed_batch_norm", fixed(3), (7, 3)),
        Case("fixed_batch_norm/no_batch", fixed(3), (3,), batch=0),
        Case("fixed_batch_norm/image", fixed(3), (2, 5, 7, 3)),
        Case("fixed_batch_norm/one", fixed(1), (1, 1)),
        Case(
            "fixed_batch_norm/serial", fbp.Serial(dense, fixed(5), tanh, dense), (2, 7, 5), batch=2
        ),
    ]


CORE = {
    *("conv1d/everything", "conv_transpose/everything", "upsample", "conv1d/causal"),
    *("conv/everything", "max_pool/overlapping", "avg_pool/overlapping", "flatten", "group_norm"),
    *("batch_norm", "fixed_batch_norm", "global_avg_pool", "dropout", "sum/recomputed"),
}
