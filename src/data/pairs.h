// Two digits side by side, each moved by itself (DDMNIST, Veefkind & Cesa 2024): every digit has
// the symmetry of its group, the image has not, since "12" is another label than "21".
#pragma once

#include "core/stream.h"
#include "data/dataset.h"

namespace evariste {

/// That of the published code.
inline const Normalisation kPairsNormalisation = {{0.06535}, {0.55507}};

/// `count` pairs. Pair i has label i mod C^2 = C left + right, so that labels are equally frequent;
/// each digit is drawn from those of its class, with replacement, by
/// stream.split("digits").split(i) (left, then right), and moved by the element of `group` ("C1",
/// "C4", "SO(2)", "D1", "D4", "O(2)") that stream.split("poses").split(2 i), or of 2 i + 1 for the
/// right one, draws. Moved are the pixels of a digit about its centre: a horizontal flip, quarter
/// turns exactly, others bilinear.
///   digits [N, 1, S, S] uint8 of C classes -> x [count, 1, 2 S, 2 S] uint8, both in the middle
///   rows
/// Throws UsageError where a class has no digit.
Dataset digit_pairs(const Dataset& digits, int64_t count, const std::string& group,
                    const Stream& stream);

}  // namespace evariste
