// From raw images to what a network sees, and the data sets made from others.
//
// Pure functions. Order: on raw uint8 images rotated, translated or quadrant_mnist, once, before
// training; then normalised, then resized (resizing after normalisation); then, batch by batch and
// in training only, augmented.
//
// Random numbers. Each function splits the stream it is given by its own name, and then by
// `Dataset::index` of the sample, so that a sample's numbers do not depend on its neighbours, on
// the order, on batches or on subsets:
//
//   stream.split("rotation").split(i)      one uniform: the angle
//   stream.split("translation").split(i)   two uniforms: x, y
//   stream.split("scale").split(i)         one uniform: the logarithm of the factor
//   stream.split("quadrant").split(i)      below(4): the quadrant
//   stream.split("augmentation").split(i)  below(2), below(9), below(9): flip, row, column
//   stream.split("permutation")            Fisher-Yates, N - 1 draws
#pragma once

#include "core/stream.h"
#include "data/dataset.h"

namespace evariste {

// ---- deterministic ---------------------------------------------------------------------------

/// (x/255 - mean)/std per channel. x [N, C, H, W] or [N, C, D, H, W] uint8 -> the same in float32.
/// Throws UsageError where x is not uint8 or has another number of channels.
torch::Tensor normalise(const torch::Tensor& x, const Normalisation& normalisation);

/// Bilinear, align_corners = false, no antialias. x [N, C, H, W] float32 -> [N, C, side, side];
/// volumes [N, C, D, H, W] likewise, trilinear.
torch::Tensor resize(const torch::Tensor& x, int64_t side);

/// The same on a data set; normalised uses `dataset.normalisation`.
Dataset normalised(const Dataset& dataset);
Dataset resized(const Dataset& dataset, int64_t side);

// ---- fixed random data sets --------------------------------------------------------------------

/// Where the numbers of a fixed random data set come from. Reference: torch's CPU generator, seeded
/// and called in the order of the published code (rotation and translation: seed 1 for train, 0 for
/// test; quadrants: 1001, 1000). It draws in row order for the whole set, so it refuses a subset.
enum class DrawScheme { PerSample, Reference };

/// Sampled at (col, row) -> (c col - s row, s col + c row) about the image centre: angle pi/2 is
/// rot90(x, 1, {2, 3}), a quarter turn counter-clockwise. Bilinear, zeros outside, truncated to
/// uint8.
///   x [N, C, H, W] uint8, angles_radians [N] float32 -> [N, C, H, W] uint8
torch::Tensor rotate(const torch::Tensor& x, const torch::Tensor& angles_radians);

/// What the label of a turned image says.
enum class TurnLabel { None, Added };  ///< the class, or class + classes times the quarter turns
/// Each image turned once by a multiple of 90 degrees, equally likely, counter-clockwise, exactly.
Dataset quarter_turned(const Dataset& dataset, TurnLabel label, const Stream& stream);
/// Each image rotated once by an angle uniform on +-max_degrees (90 and 180 in the experiments).
Dataset rotated(const Dataset& dataset, double max_degrees, const Stream& stream,
                DrawScheme scheme = DrawScheme::PerSample);

/// The images of rotated(dataset, 180, stream), and what is asked for is how far: y = (cos a, sin
/// a) [N, 2] float32 of the angle a, counter-clockwise.
Dataset angles_of(const Dataset& dataset, const Stream& stream);

/// Sampled at (col + offset_x, row + offset_y), so the content moves by minus the offset. Unit:
/// half the distance between the first and the last pixel centre (align_corners = true), 13.5 px
/// at 28.
///   x [N, C, H, W] uint8, offsets [N, 2] float32 (x, y) -> [N, C, H, W] uint8
torch::Tensor translate(const torch::Tensor& x, const torch::Tensor& offsets);

/// Each image moved once by offsets uniform on +-8/14, that is +-7.7 px at 28.
Dataset translated(const Dataset& dataset, const Stream& stream,
                   DrawScheme scheme = DrawScheme::PerSample);

/// Sampled at factor (col, row) about the image centre: a factor of 2 halves the content.
///   x [N, C, H, W] uint8, factors [N] float32 -> [N, C, H, W] uint8
torch::Tensor rescale(const torch::Tensor& x, const torch::Tensor& factors);

/// Each image rescaled once by exp(u), u uniform on +-max_log_factor.
Dataset scaled(const Dataset& dataset, double max_log_factor, const Stream& stream);

// ---- the quadrant/digit toy
// ----------------------------------------------------------------------

/// Pastes each digit into a zero canvas of twice its size, to the right where q is 1 or 3, down
/// where q is 2 or 3, and shrinks the canvas to 32 x 32: bilinear, no antialias, rounded to uint8.
///   x [N, 1, 28, 28] uint8, q [N] int64 in 0 ... 3 -> [N, 1, 32, 32] uint8
/// Images that differ in q only differ by a shift of exactly 16 pixels.
torch::Tensor place_in_quadrants(const torch::Tensor& x, const torch::Tensor& q);

/// Digit: y, 10 classes, position does not matter. Quadrant: y + 10 q, 40 classes, position is
/// needed.
enum class QuadrantLabel { Digit, Quadrant };

/// x [N, 1, 32, 32] float32, normalised. One stream gives the same images for both kinds of label;
/// train and test want different streams.
Dataset quadrant_mnist(const Dataset& mnist, QuadrantLabel label, const Stream& stream,
                       DrawScheme scheme = DrawScheme::PerSample);

// ---- subsets -----------------------------------------------------------------------------------

/// [n] int64, a uniform permutation of 0 ... n-1.
torch::Tensor random_permutation(int64_t n, const Stream& stream);

/// The samples `rows` [M] int64, in this order; they keep their index. Throws UsageError where a
/// row is outside 0 ... N-1.
Dataset subset(const Dataset& dataset, const torch::Tensor& rows);

/// The first `n` of a random permutation, so smaller subsets are part of larger ones. Throws
/// UsageError where n is not in 1 ... N.
Dataset random_subset(const Dataset& dataset, int64_t n, const Stream& stream);

// ---- augmentation
// --------------------------------------------------------------------------------

/// Batch: the published code's one draw for the whole batch, here that of its first sample.
enum class AugmentScope { PerSample, Batch };

/// A left-right flip with probability 1/2, then a crop at a random place of the image padded by 4
/// zeros (the mean colour, since x is normalised) on each side. For training batches only.
///   x [B, C, H, W] float32 on the CPU, index [B] int64 -> [B, C, H, W]
/// `stream` must differ from epoch to epoch: root.split("train").split(epoch).
torch::Tensor augmented(const torch::Tensor& x, const torch::Tensor& index, const Stream& stream,
                        AugmentScope scope = AugmentScope::PerSample);

}  // namespace evariste
