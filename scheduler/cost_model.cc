#include "scheduler/cost_model.h"

#include <algorithm>
#include <cmath>

namespace sluice {
namespace {

constexpr int kTerms = 5;
using Terms = std::array<double, kTerms>;
using Matrix = std::array<Terms, kTerms>;

constexpr double kKeep = 1 - 1.0 / 256;  // of the past, a step
constexpr int kFitEvery = 16;            // steps
constexpr int kTrusted = 32;             // steps after which a step may be called an outlier
constexpr double kOutlier = 4;           // times off, either way
constexpr double kOutlierWeight = 0.1;
constexpr int kChanged = 16;  // so many outliers in a row are none: the machine has changed
constexpr double kErrorMemory = 64, kCopyMemory = 64;  // steps; blocks
// To change a coefficient by its own size, or by what makes up kShare of the steps it is in if that
// is more, costs what a step costs that is off by half, sqrt(kRidge): once for each fit that the
// same steps take part in.
constexpr double kRidge = 0.25, kShare = 0.05;
// A term seen less than this many times, decayed, is forgotten: its sums would become denormal.
constexpr double kLeast = 1e-6;

// Solves a x = b in place of x for the terms in `set`; a is positive definite on them (ridge).
void solve(const Matrix& a, const Terms& b, unsigned set, Terms& x) {
  std::array<int, kTerms> at{};
  int n = 0;
  for (int i = 0; i < kTerms; ++i) {
    if (set >> i & 1) at[n++] = i;
  }
  Matrix l{};  // Cholesky
  Terms y{};
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j <= i; ++j) {
      double sum = a[at[i]][at[j]];
      for (int k = 0; k < j; ++k) sum -= l[i][k] * l[j][k];
      l[i][j] = i == j ? std::sqrt(sum) : sum / l[j][j];
    }
    double sum = b[at[i]];
    for (int k = 0; k < i; ++k) sum -= l[i][k] * y[k];
    y[i] = sum / l[i][i];
  }
  for (int i = n; i-- > 0;) {
    double sum = y[i];
    for (int k = i + 1; k < n; ++k) sum -= l[k][i] * x[at[k]];
    x[at[i]] = sum / l[i][i];
  }
}

// min x'ax - 2b'x over x >= 0, for the terms in `set`; the others of x keep their value. Five
// terms: when the unbounded solution leaves the positive ones, all faces of them are tried.
void solve_non_negative(const Matrix& a, const Terms& b, unsigned set, Terms& x) {
  const Terms start = x;
  double best = 0;
  for (unsigned face = set;; face = (face - 1) & set) {  // every subset, the whole set first
    Terms candidate = start;
    for (int i = 0; i < kTerms; ++i) {
      if (set >> i & 1) candidate[i] = 0;
    }
    solve(a, b, face, candidate);
    bool inside = true;
    double value = 0;  // at a face's minimum it is -b'x
    for (int i = 0; i < kTerms; ++i) {
      if (!(face >> i & 1)) continue;
      inside &= candidate[i] >= 0;
      value -= b[i] * candidate[i];
    }
    if (inside && (value < best || face == set)) {
      best = value;
      x = candidate;
      if (face == set) return;
    }
    if (face == 0) break;
  }
}

Terms terms_of(const StepWork& w) {
  return {1, w.prefill_tokens, w.prefill_context, w.decode_rows, w.decode_context};
}

Terms coefficients(const StepCost& c) {
  return {c.constant, c.per_prefill_token, c.per_prefill_pair, c.per_decode_row,
          c.per_context_token};
}

void set_coefficients(const Terms& c, StepCost& cost) {
  cost.constant = c[0];
  cost.per_prefill_token = c[1];
  cost.per_prefill_pair = c[2];
  cost.per_decode_row = c[3];
  cost.per_context_token = c[4];
}

}  // namespace

StepFit fit_steps(std::span<const MeasuredStep> steps) {
  constexpr int kRounds = 30;      // of weights by the last round's predictions
  constexpr double kFar = 0.5;     // of a prediction
  constexpr double kTiny = 1e-10;  // of a term's own sum: keeps equal terms apart
  StepFit fit;
  Terms c{};
  // No prediction is so near zero that its step would count for all.
  const auto predicted = [&](const MeasuredStep& step) {
    return std::max(CostModel(fit.cost).seconds(step.work), 1e-3 * step.seconds);
  };
  for (int round = 0; round < kRounds; ++round) {
    Matrix a{};
    Terms b{};
    unsigned set = 0;
    for (const MeasuredStep& step : steps) {
      const Terms x = terms_of(step.work);
      const double scale = round == 0 ? step.seconds : predicted(step);
      const double off = std::abs(step.seconds / scale - 1);
      const double weight = kFar / std::max(off, kFar) / (scale * scale);
      for (int i = 0; i < kTerms; ++i) {
        for (int j = 0; j < kTerms; ++j) a[i][j] += weight * x[i] * x[j];
        b[i] += weight * x[i] * step.seconds;
      }
    }
    for (int i = 0; i < kTerms; ++i) {
      if (a[i][i] > 0) set |= 1u << i;
      a[i][i] *= 1 + kTiny;
    }
    solve_non_negative(a, b, set, c);
    set_coefficients(c, fit.cost);
  }
  double took = 0, said = 0, sum = 0, squares = 0;
  for (const MeasuredStep& step : steps) took += step.seconds, said += predicted(step);
  if (said > 0) {
    for (double& figure : c) figure *= took / said;
  }
  set_coefficients(c, fit.cost);
  for (const MeasuredStep& step : steps) {
    const double ratio = step.seconds / predicted(step), factor = std::min(ratio, 1 + kFar);
    fit.errors.push_back({factor, (ratio - factor) * predicted(step)});
    const double off = std::log(ratio);
    sum += off;
    squares += off * off;
  }
  const double n = double(std::max<size_t>(steps.size(), 1));
  fit.sigma = std::sqrt(std::max(0.0, squares / n - sum * sum / (n * n)));
  return fit;
}

void CostModel::observe(const StepWork& work, double measured) {
  if (!(measured > 0) || work.prefill_tokens + work.decode_rows <= 0) return;
  const double predicted = seconds(work);
  ++observed_;
  error_ += (std::abs(predicted - measured) / measured - error_) /
            std::min(double(observed_), kErrorMemory);

  // Weighted by 1 / time^2, so that a short step's error counts like a long one's.
  double scale = 1 / measured, weight = 1;
  const bool outlier = measured > kOutlier * predicted || measured * kOutlier < predicted;
  if (!outlier || observed_ <= kTrusted) {
    outliers_in_a_row_ = 0;
  } else if (++outliers_in_a_row_ < kChanged) {
    weight = kOutlierWeight;
    scale = std::min(scale, kOutlier / predicted);  // one that was too short weighs no more
  } else {
    if (outliers_in_a_row_ == kChanged) forget(1e-3);
  }
  forget(kKeep);
  const Terms x = terms_of(work);
  weight *= scale * scale;
  for (int i = 0; i < kTerms; ++i) {
    for (int j = 0; j <= i; ++j) xx_[i][j] += weight * x[i] * x[j];
    xy_[i] += weight * x[i] * measured;
    seen_[i] += x[i] > 0;
  }
  if (observed_ % kFitEvery == 0) fit();
}

void CostModel::forget(double keep) {
  for (int i = 0; i < kTerms; ++i) {
    for (int j = 0; j <= i; ++j) xx_[i][j] *= keep;
    xy_[i] *= keep;
    seen_[i] *= keep;
  }
}

void CostModel::fit() {
  Terms c = coefficients(cost_);
  Matrix a{};
  Terms b{};
  unsigned set = 0;
  for (int i = 0; i < kTerms; ++i) {
    if (seen_[i] < kLeast) {
      for (int j = 0; j < kTerms; ++j) xx_[std::max(i, j)][std::min(i, j)] = 0;
      xy_[i] = seen_[i] = 0;
    }
    if (!(xx_[i][i] > 0)) continue;
    set |= 1u << i;
    for (int j = 0; j <= i; ++j) a[i][j] = a[j][i] = xx_[i][j];
    b[i] = xy_[i];
  }
  const double weight = kRidge * std::max(1.0, seen_[0] / kFitEvery);
  for (int i = 0; i < kTerms; ++i) {
    if (!(set >> i & 1)) continue;
    const double share = kShare * kShare * seen_[i] / xx_[i][i];
    const double ridge = weight / std::max(c[i] * c[i], share);
    a[i][i] += ridge;
    b[i] += ridge * c[i];
  }
  solve_non_negative(a, b, set, c);
  set_coefficients(c, cost_);
}

void CostModel::observe_copies(int64_t blocks, double seconds) {
  if (blocks <= 0 || !(seconds > 0)) return;
  const double share = std::min(0.5, double(blocks) / kCopyMemory);
  cost_.per_block_copy += share * (seconds / double(blocks) - cost_.per_block_copy);
}

}  // namespace sluice
