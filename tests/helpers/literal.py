"""Literal, slow versions of the package's computations: float64 and plain loops."""

import math

import numpy as np
import scipy.special

# Imaging: images are [H, W, C]


def kernel(l1: float, l2: float, theta: float) -> np.ndarray:
    """The anisotropic kernel [21, 21] from its covariance matrix."""
    rotation = np.array(
        [[math.cos(theta), -math.sin(theta)], [math.sin(theta), math.cos(theta)]]
    )
    inverse = np.linalg.inv(rotation @ np.diag([l1**2, l2**2]) @ rotation.T)
    values = np.zeros((21, 21))
    for row in range(21):
        for column in range(21):
            point = np.array([column - 10, row - 10])
            values[row, column] = math.exp(-0.5 * point @ inverse @ point)
    return values / values.sum()


def related_kernel(
    family: str, l1: float, l2: float, theta: float, shape: float, extent: int
) -> np.ndarray:
    """The generalised Gaussian or the plateau on extent x extent, padded to 21 x 21."""
    cosine, sine = math.cos(theta), math.sin(theta)
    values = np.zeros((21, 21))
    for y in range(-(extent // 2), extent // 2 + 1):
        for x in range(-(extent // 2), extent // 2 + 1):
            along, across = x * cosine + y * sine, y * cosine - x * sine
            power = ((along / l1) ** 2 + (across / l2) ** 2) ** shape
            gaussian, plateau = math.exp(-power / 2), 1 / (1 + power)
            values[10 + y, 10 + x] = gaussian if family == "generalised" else plateau
    return values / values.sum()


def sinc_kernel(cutoff: float, extent: int) -> np.ndarray:
    """The circular low pass on extent x extent, padded to 21 x 21."""
    values = np.zeros((21, 21))
    for y in range(-(extent // 2), extent // 2 + 1):
        for x in range(-(extent // 2), extent // 2 + 1):
            r = math.hypot(x, y)
            value = cutoff**2 / (4 * math.pi)
            if r:
                value = cutoff * scipy.special.j1(cutoff * r) / (2 * math.pi * r)
            values[10 + y, 10 + x] = value
    return values / values.sum()


def reflect(index: int, size: int) -> int:
    """The pixel inside 0..size-1 that stands in for `index`, mirrored at the border."""
    if index < 0:
        return -index
    return index if index < size else 2 * (size - 1) - index


def blur(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Correlation of an image with a kernel, reflected border."""
    height, width, _ = image.shape
    radius = len(kernel) // 2
    blurred = np.zeros(image.shape)
    for y in range(height):
        for x in range(width):
            for i in range(len(kernel)):
                for j in range(len(kernel)):
                    row = reflect(y + i - radius, height)
                    column = reflect(x + j - radius, width)
                    blurred[y, x] += kernel[i, j] * image[row, column]
    return blurred


def cubic(x: float, a: float = -0.5) -> float:
    """Keys' cubic, in the form of the general a."""
    x = abs(x)
    if x < 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    if x < 2:
        return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return 0.0


def bicubic_line(line: np.ndarray, size: int) -> np.ndarray:
    """The first axis of `line` interpolated to `size`, clamped border."""
    step = len(line) / size
    stretch = max(step, 1)
    result = np.zeros((size, *line.shape[1:]))
    for i in range(size):
        centre = (i + 0.5) * step - 0.5
        total = 0.0
        reach = range(int(centre - 2 * stretch) - 2, int(centre + 2 * stretch) + 3)
        for position in reach:
            weight = cubic((position - centre) / stretch)
            result[i] += weight * line[min(max(position, 0), len(line) - 1)]
            total += weight
        result[i] /= total
    return result


def bicubic(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The image interpolated to `size` (h, w)."""
    rows = bicubic_line(image, size[0])
    return bicubic_line(rows.swapaxes(0, 1), size[1]).swapaxes(0, 1)


def torch_line(line: np.ndarray, size: int, step: float, rule: str) -> np.ndarray:
    """The first axis of `line` interpolated to `size` as torch does, not antialiased.

    step is the distance of neighbouring outputs in input pixels.
    """
    length = len(line)
    result = np.zeros((size, *line.shape[1:]))
    for i in range(size):
        if rule == "area":
            first, end = i * length // size, math.ceil((i + 1) * length / size)
            result[i] = line[first:end].mean(0)
            continue
        centre = (i + 0.5) * step - 0.5
        if rule == "bilinear":
            centre = max(centre, 0)
        for position in range(math.floor(centre) - 1, math.floor(centre) + 3):
            distance = abs(position - centre)
            linear = max(1 - distance, 0)
            weight = linear if rule == "bilinear" else cubic(distance, -0.75)
            result[i] += weight * line[min(max(position, 0), length - 1)]
    return result


def degrade(
    hr: np.ndarray, kernel: np.ndarray, noise: np.ndarray | float, scale: int
) -> np.ndarray:
    """Low-resolution image in [0, 1], not rounded; `noise` is on the 0..255 scale."""
    size = (hr.shape[0] // scale, hr.shape[1] // scale)
    return np.clip(bicubic(blur(hr, kernel), size) + noise, 0, 255) / 255


def luma(image: np.ndarray, divisor: float) -> np.ndarray:
    """The weighted sum of red, green and blue, without an offset."""
    red, green, blue = image.astype(float).transpose(2, 0, 1)
    return (65.738 * red + 129.057 * green + 25.064 * blue) / divisor


def psnr_y(a: np.ndarray, b: np.ndarray, border: int) -> float:
    """PSNR on luma, `border` pixels cut."""
    difference = luma(a, 256) - luma(b, 256)
    inside = difference[border : len(a) - border, border : a.shape[1] - border]
    return 20 * math.log10(255 / math.sqrt((inside**2).mean()))


def ssim_y(a: np.ndarray, b: np.ndarray, border: int) -> float:
    """SSIM on luma, without `border` pixels on each side."""
    height, width, _ = a.shape
    inside = np.s_[border : height - border, border : width - border]
    a, b = (luma(image, 255)[inside] + 16 for image in (a, b))
    values = [luminance * contrast for luminance, contrast in similarities(a, b, 255)]
    return sum(values) / len(values)


def similarities(
    a: np.ndarray, b: np.ndarray, peak: float
) -> list[tuple[float, float]]:
    """SSIM's luminance and contrast of planes by weighted moments, by window."""
    window = np.zeros((11, 11))
    for i in range(11):
        for j in range(11):
            window[i, j] = math.exp(-((i - 5) ** 2 + (j - 5) ** 2) / (2 * 1.5**2))
    window /= window.sum()

    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    values = []
    for y in range(a.shape[0] - 10):
        for x in range(a.shape[1] - 10):
            u, v = a[y : y + 11, x : x + 11], b[y : y + 11, x : x + 11]
            mu, mv = (window * u).sum(), (window * v).sum()
            var_u = (window * (u - mu) ** 2).sum()
            var_v = (window * (v - mv) ** 2).sum()
            covariance = (window * (u - mu) * (v - mv)).sum()
            luminance = (2 * mu * mv + c1) / (mu**2 + mv**2 + c1)
            contrast = (2 * covariance + c2) / (var_u + var_v + c2)
            values.append((luminance, contrast))
    return values


# Training


def contrastive_loss(
    queries: np.ndarray, keys: np.ndarray, queue: np.ndarray, temperature: float
) -> float:
    """Eqs. 1 and 2 term by term; queries, keys [D, B, C], queue [Q, C]."""
    total, count = 0.0, 0
    for i, query_of_images in enumerate(queries):
        for j, key_of_images in enumerate(keys):
            if i == j:
                continue
            for query, key in zip(query_of_images, key_of_images, strict=True):
                positive = np.exp(query @ key / temperature)
                negatives = sum(np.exp(query @ row / temperature) for row in queue)
                total -= np.log(positive / (positive + negatives))
                count += 1
    return total / count


def channel_distillation(
    teacher: np.ndarray, student: np.ndarray, temperature: float, l1_weight: float
) -> float:
    """KL of softmaxes, averaged over the batch, plus the mean absolute difference."""
    total = 0.0
    for t, s in zip(teacher, student, strict=True):
        p = np.exp(t / temperature) / np.exp(t / temperature).sum()
        q = np.exp(s / temperature) / np.exp(s / temperature).sum()
        total += (p * np.log(p / q)).sum()
    return total / len(teacher) + l1_weight * np.abs(teacher - student).mean()


def spectrum(plane: np.ndarray) -> np.ndarray:
    """The Fourier transform of a plane [H, W] by its sum, divided by sqrt(H W)."""
    rows, columns = (
        np.exp(-2j * math.pi * np.outer(range(n), range(n)) / n) for n in plane.shape
    )
    values = np.zeros(plane.shape, complex)
    for u in range(plane.shape[0]):
        for v in range(plane.shape[1]):
            values[u, v] = (plane * np.outer(rows[u], columns[v])).sum()
    return values / math.sqrt(plane.size)


def focal_frequency(sr: np.ndarray, hr: np.ndarray, weighed: np.ndarray) -> float:
    """Focal frequency loss of images [B, H, W, C], with weights of those `weighed`."""
    losses = []
    for image in range(len(sr)):
        for channel in range(sr.shape[-1]):
            own, other, target = (
                spectrum(x[image, ..., channel]) for x in (sr, weighed, hr)
            )
            weights = abs(other - target)
            losses.append((weights / weights.max() * abs(own - target) ** 2).mean())
    return sum(losses) / len(losses)


def ms_ssim(a: np.ndarray, b: np.ndarray, exponents: list[float]) -> float:
    """MS-SSIM of planes [H, W] in [0, 1], whose sides are even between the scales."""
    value = 1.0
    for index, exponent in enumerate(exponents):
        if index:
            a, b = (
                (x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2]) / 4
                for x in (a, b)
            )
        found = similarities(a, b, 1)
        last = index == len(exponents) - 1
        terms = [(luminance if last else 1) * contrast for luminance, contrast in found]
        value *= (sum(terms) / len(terms)) ** exponent
    return value


def learning_rate(epoch: int) -> float:
    """The paper's rate in epoch 1..700."""
    if epoch <= 100:
        return 2e-4
    e = epoch - 100
    if e <= 5:
        return 2e-4 * e / 5
    return 1e-6 + (2e-4 - 1e-6) * (1 + math.cos(math.pi * (e - 5) / (600 - 5))) / 2


# Networks: feature maps are [h, w, C], kernels [k, k, I, O]


def conv(x: np.ndarray, kernel: np.ndarray, stride: int = 1) -> np.ndarray:
    """Convolution with k // 2 rows of zeros on each side."""
    height, width, _ = x.shape
    radius = len(kernel) // 2
    rows, columns = range(0, height, stride), range(0, width, stride)
    result = np.zeros((len(rows), len(columns), kernel.shape[3]))
    for y, centre_row in enumerate(rows):
        for z, centre_column in enumerate(columns):
            for i in range(len(kernel)):
                for j in range(len(kernel)):
                    row, column = centre_row + i - radius, centre_column + j - radius
                    if 0 <= row < height and 0 <= column < width:
                        result[y, z] += x[row, column] @ kernel[i, j]
    return result


def depthwise_conv(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Each channel with the kernel [k, k, 1, C] of its own."""
    channels = [
        conv(x[..., c : c + 1], kernel[..., c : c + 1]) for c in range(x.shape[-1])
    ]
    return np.concatenate(channels, -1)


def pixel_shuffle(x: np.ndarray, factor: int) -> np.ndarray:
    """Input channel c f^2 + i f + j becomes channel c at row i, column j."""
    height, width, channels = x.shape
    result = np.zeros((height * factor, width * factor, channels // factor**2))
    for y in range(height):
        for z in range(width):
            for c in range(result.shape[2]):
                for i in range(factor):
                    for j in range(factor):
                        source = c * factor**2 + i * factor + j
                        result[y * factor + i, z * factor + j, c] = x[y, z, source]
    return result


def batch_norm_evaluation(
    x: np.ndarray,
    scale: np.ndarray,
    bias: np.ndarray,
    mean: np.ndarray,
    var: np.ndarray,
) -> np.ndarray:
    """x [..., C] by the given statistics."""
    return (x - mean) / np.sqrt(var + 1e-5) * scale + bias


def batch_norm_training(
    x: np.ndarray,
    scale: np.ndarray,
    bias: np.ndarray,
    mean: np.ndarray,
    var: np.ndarray,
    visits: tuple[int, ...],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Crops [D, B, h, w, C], each by its own statistics; new running mean and var."""
    y, mean, var = np.zeros(x.shape), mean.astype(float), var.astype(float)
    for crop in range(len(x)):
        for c in range(x.shape[-1]):
            values = x[crop, ..., c].astype(float)
            biased = ((values - values.mean()) ** 2).sum() / values.size
            y[crop, ..., c] = batch_norm_evaluation(
                values, scale[c], bias[c], values.mean(), biased
            )
    for crop in visits:
        for c in range(x.shape[-1]):
            values = x[crop, ..., c].astype(float)
            unbiased = ((values - values.mean()) ** 2).sum() / (values.size - 1)
            mean[c] = 0.9 * mean[c] + 0.1 * values.mean()
            var[c] = 0.9 * var[c] + 0.1 * unbiased
    return y, mean, var
