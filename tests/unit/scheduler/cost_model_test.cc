#include "scheduler/cost_model.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

namespace sluice {
namespace {

const StepCost kTruth{.constant = 8e-3,
                      .per_prefill_token = 4e-4,
                      .per_prefill_pair = 6e-8,
                      .per_decode_row = 1.1e-3,
                      .per_context_token = 9e-7,
                      .per_block_copy = 5e-5};

double seconds_of(const StepCost& c, const StepWork& w) { return CostModel(c).seconds(w); }
double off_by(double got, double want) { return std::abs(got - want) / want; }

// What a server under changing load would run.
class Steps {
 public:
  explicit Steps(uint64_t seed) : rng_(seed) {}
  StepWork next() {
    StepWork w;
    const int decodes = int(rng_() % 17), chunks = decodes == 0 ? 1 : int(rng_() % 3);
    for (int i = 0; i < decodes; ++i) w.add(10 + int(rng_() % 2000), 1, true);
    for (int i = 0; i < chunks; ++i) w.add(int(rng_() % 2000), 1 + int(rng_() % 128), false);
    return w;
  }
  StepWork decodes(int rows, int context) {
    StepWork w;
    for (int i = 0; i < rows; ++i) w.add(context, 1, true);
    return w;
  }
  double noise(double spread) {
    return std::exp(std::normal_distribution<double>(0, spread)(rng_));
  }
  bool one_in(int n) { return rng_() % uint64_t(n) == 0; }

 private:
  std::mt19937_64 rng_;
};

void expect_terms(const StepCost& got, const StepCost& want, double tolerance) {
  EXPECT_LT(off_by(got.constant, want.constant), tolerance) << got.constant;
  EXPECT_LT(off_by(got.per_prefill_token, want.per_prefill_token), tolerance)
      << got.per_prefill_token;
  EXPECT_LT(off_by(got.per_prefill_pair, want.per_prefill_pair), tolerance) << got.per_prefill_pair;
  EXPECT_LT(off_by(got.per_decode_row, want.per_decode_row), tolerance) << got.per_decode_row;
  EXPECT_LT(off_by(got.per_context_token, want.per_context_token), tolerance)
      << got.per_context_token;
}

// Mean error of predictions over steps that it was not fitted to.
double mean_error(const CostModel& model, const StepCost& truth) {
  Steps steps(99);
  double sum = 0;
  for (int i = 0; i < 500; ++i) {
    const StepWork w = steps.next();
    sum += off_by(model.seconds(w), seconds_of(truth, w));
  }
  return sum / 500;
}

TEST(CostModelTest, FindsTheFiguresWithoutNoise) {
  CostModel model;
  Steps steps(1);
  for (int i = 0; i < 2000; ++i) {
    const StepWork w = steps.next();
    model.observe(w, seconds_of(kTruth, w));
  }
  expect_terms(model.cost(), kTruth, 0.01);
  EXPECT_LT(model.error(), 0.01);
  EXPECT_EQ(model.observed(), 2000);
}

TEST(CostModelTest, FindsTheFiguresInNoise) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    CostModel model;
    Steps steps(seed);
    for (int i = 0; i < 1000; ++i) {
      const StepWork w = steps.next();
      model.observe(w, seconds_of(kTruth, w) * steps.noise(0.1));
    }
    EXPECT_LT(mean_error(model, kTruth), 0.06) << seed;
    expect_terms(model.cost(), kTruth, 0.5);
    EXPECT_GT(model.error(), 0.04);
    EXPECT_LT(model.error(), 0.16);
  }
}

TEST(CostModelTest, IsUsefulAfterAFewSteps) {
  CostModel model;
  Steps steps(3);
  for (int i = 0; i < 64; ++i) {
    const StepWork w = steps.next();
    model.observe(w, seconds_of(kTruth, w) * steps.noise(0.05));
  }
  EXPECT_LT(mean_error(model, kTruth), 0.15);
}

// Seeds that are wrong by orders of magnitude, either way.
TEST(CostModelTest, RecoversFromAnySeed) {
  for (const double factor : {0.0, 1e-4, 1e-2, 1e2, 1e4}) {
    CostModel model(StepCost{kTruth.constant * factor, kTruth.per_prefill_token * factor,
                             kTruth.per_prefill_pair * factor, kTruth.per_decode_row * factor,
                             kTruth.per_context_token * factor, 0});
    Steps steps(4);
    for (int i = 0; i < 1000; ++i) {
      const StepWork w = steps.next();
      model.observe(w, seconds_of(kTruth, w) * steps.noise(0.03));
    }
    EXPECT_LT(mean_error(model, kTruth), 0.04) << factor;
  }
}

TEST(CostModelTest, FollowsDrift) {
  CostModel model(kTruth);
  Steps steps(5);
  StepCost truth = kTruth;
  for (int i = 0; i < 4000; ++i) {  // the machine becomes three times slower, little by little
    const double factor = 1 + 2.0 * i / 4000;
    truth.constant = kTruth.constant * factor;
    truth.per_decode_row = kTruth.per_decode_row * factor;
    truth.per_prefill_token = kTruth.per_prefill_token * factor;
    truth.per_context_token = kTruth.per_context_token * factor;
    truth.per_prefill_pair = kTruth.per_prefill_pair * factor;
    const StepWork w = steps.next();
    model.observe(w, seconds_of(truth, w) * steps.noise(0.05));
  }
  EXPECT_LT(mean_error(model, truth), 0.12);
}

// All at once, by so much that each step alone looks like an outlier, and back.
TEST(CostModelTest, FollowsASuddenChange) {
  CostModel model(kTruth);
  Steps steps(6);
  for (const double factor : {1.0, 10.0, 1.0}) {
    for (int i = 0; i < 300; ++i) {
      const StepWork w = steps.next();
      model.observe(w, factor * seconds_of(kTruth, w) * steps.noise(0.05));
    }
    EXPECT_LT(model.error(), 0.15) << factor;
  }
  EXPECT_LT(mean_error(model, kTruth), 0.1);
}

TEST(CostModelTest, WhatNoStepHeldKeepsItsSeed) {
  CostModel model(kTruth);
  Steps steps(7);
  for (int i = 0; i < 3000; ++i) {  // decodes only, on a machine twice as slow
    const StepWork w = steps.decodes(1 + i % 16, 100 + i % 700);
    model.observe(w, 2 * seconds_of(kTruth, w) * steps.noise(0.05));
  }
  EXPECT_EQ(model.cost().per_prefill_token, kTruth.per_prefill_token);
  EXPECT_EQ(model.cost().per_prefill_pair, kTruth.per_prefill_pair);
  EXPECT_LT(off_by(model.cost().per_decode_row, 2 * kTruth.per_decode_row), 0.25);
}

// Prefills long ago: what they took is still known, whatever decodes have become.
TEST(CostModelTest, WhatNoRecentStepHeldKeepsItsLastValue) {
  CostModel model;
  Steps steps(8);
  for (int i = 0; i < 1000; ++i) {
    const StepWork w = steps.next();
    model.observe(w, seconds_of(kTruth, w));
  }
  const StepCost before = model.cost();
  for (int i = 0; i < 20000; ++i) {
    const StepWork w = steps.decodes(1 + i % 16, 100 + i % 700);
    model.observe(w, 1.7 * seconds_of(kTruth, w) * steps.noise(0.05));
  }
  EXPECT_LT(off_by(model.cost().per_prefill_token, before.per_prefill_token), 0.5);
  StepWork w;
  w.add(0, 64, false);
  model.observe(w, seconds_of(kTruth, w));  // one alone does not upset it
  for (int i = 0; i < 16; ++i) model.observe(steps.decodes(8, 300), 2e-2);
  EXPECT_LT(off_by(model.cost().per_prefill_token, before.per_prefill_token), 0.5);
}

// Eight rows for hours: constant, rows and context cannot be told apart, so the seed tells them.
TEST(CostModelTest, TermsThatCannotBeToldApartKeepTheirProportions) {
  CostModel model(kTruth);
  Steps steps(9);
  for (int i = 0; i < 20000; ++i) {
    const StepWork w = steps.decodes(8, 500);
    model.observe(w, 1.5 * seconds_of(kTruth, w) * steps.noise(0.1));
  }
  EXPECT_LT(
      off_by(model.seconds(steps.decodes(8, 500)), 1.5 * seconds_of(kTruth, steps.decodes(8, 500))),
      0.05);
  for (const int rows : {1, 4, 16}) {
    const double got = model.seconds(steps.decodes(rows, 500));
    EXPECT_GT(got, seconds_of(kTruth, steps.decodes(rows, 500))) << rows;
    EXPECT_LT(got, 2 * seconds_of(kTruth, steps.decodes(rows, 500))) << rows;
  }
}

// Nearly the same: what noise says about the small differences is not believed.
TEST(CostModelTest, NoiseDoesNotTellTermsApart) {
  CostModel model(kTruth);
  Steps steps(13);
  for (int i = 0; i < 20000; ++i) {
    const StepWork w = steps.decodes(8, 480 + int(i * 7 % 40));
    model.observe(w, seconds_of(kTruth, w) * steps.noise(0.2));
    if (i % 16 != 15) continue;
    for (const int rows : {1, 4, 16}) {
      const StepWork other = steps.decodes(rows, 500), far = steps.decodes(rows, 2000);
      ASSERT_LT(off_by(model.seconds(other), seconds_of(kTruth, other)), 0.3) << i << " " << rows;
      ASSERT_LT(off_by(model.seconds(far), seconds_of(kTruth, far)), 0.5) << i << " " << rows;
    }
  }
}

TEST(CostModelTest, IsNeverNegative) {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    CostModel model;
    Steps steps(seed);
    for (int i = 0; i < 400; ++i) {
      const StepWork w = steps.next();
      // Times that no such model explains: more work is faster, or nothing but noise.
      const double t =
          seed % 2 ? 1e-3 + 1 / (1 + w.prefill_tokens + w.decode_rows) : 1e-3 * steps.noise(2);
      model.observe(w, t);
      const StepCost& c = model.cost();
      for (const double x : {c.constant, c.per_prefill_token, c.per_prefill_pair, c.per_decode_row,
                             c.per_context_token}) {
        ASSERT_GE(x, 0) << seed << " " << i;
        ASSERT_LT(x, 1e6) << seed << " " << i;
      }
    }
  }
}

// A term that takes no time is found to take none, and the others their own.
TEST(CostModelTest, ATermMayBeZero) {
  StepCost truth = kTruth;
  truth.constant = truth.per_prefill_pair = 0;
  CostModel model(kTruth);
  Steps steps(10);
  for (int i = 0; i < 2000; ++i) {
    const StepWork w = steps.next();
    model.observe(w, seconds_of(truth, w) * steps.noise(0.02));
  }
  EXPECT_LT(model.cost().constant, 1e-3);
  EXPECT_LT(off_by(model.cost().per_decode_row, truth.per_decode_row), 0.05);
  EXPECT_LT(mean_error(model, truth), 0.05);
}

// A neighbour takes the machine now and then: one step in twenty takes far longer.
TEST(CostModelTest, OutliersAreWeighedDown) {
  for (const double factor : {8.0, 50.0, 0.02}) {
    CostModel model(kTruth);
    Steps steps(11);
    for (int i = 0; i < 3000; ++i) {
      const StepWork w = steps.next();
      const bool outlier = i > 100 && steps.one_in(20);
      model.observe(w, seconds_of(kTruth, w) * steps.noise(0.05) * (outlier ? factor : 1));
    }
    EXPECT_LT(mean_error(model, kTruth), 0.12) << factor;
  }
}

TEST(CostModelTest, TheErrorIsThatOfThePredictionsMade) {
  CostModel model(kTruth);
  EXPECT_EQ(model.error(), 0);
  Steps steps(12);
  const StepWork w = steps.decodes(4, 100);
  const double predicted = model.seconds(w);
  model.observe(w, predicted / 2);  // twice what it took: off by 1
  EXPECT_DOUBLE_EQ(model.error(), 1);
  model.observe(w, predicted / 0.8);  // off by 0.2
  EXPECT_DOUBLE_EQ(model.error(), 0.6);
  model.observe(w, predicted);
  EXPECT_DOUBLE_EQ(model.error(), 0.4);
  for (int i = 0; i < 2000; ++i) model.observe(w, predicted);
  EXPECT_LT(model.error(), 1e-3);  // long ago
}

TEST(CostModelTest, NothingIsLearntFromNothing) {
  CostModel model(kTruth);
  model.observe({}, 1e-3);
  model.observe(Steps(1).decodes(1, 1), 0);
  model.observe_copies(0, 1);
  model.observe_copies(5, 0);
  EXPECT_EQ(model.observed(), 0);
  EXPECT_EQ(model.error(), 0);
  EXPECT_EQ(model.cost().per_block_copy, kTruth.per_block_copy);
}

TEST(CostModelTest, CopiesAreAMeanOfTheRecentPast) {
  CostModel model(kTruth);
  model.observe_copies(16, 16 * 1e-4);
  EXPECT_GT(model.cost().per_block_copy, kTruth.per_block_copy);
  EXPECT_LT(model.cost().per_block_copy, 1e-4);
  for (int i = 0; i < 100; ++i) model.observe_copies(10, 10 * 1e-4);
  EXPECT_NEAR(model.cost().per_block_copy, 1e-4, 1e-6);
  model.observe_copies(100000, 100000 * 2e-4);  // however many: half at most
  EXPECT_NEAR(model.cost().per_block_copy, 1.5e-4, 1e-6);
}

std::vector<MeasuredStep> measured(int count, double sigma, uint64_t seed) {
  Steps steps(seed);
  std::vector<MeasuredStep> out;
  for (int i = 0; i < count; ++i) {
    const StepWork w = steps.next();
    const double mean_one = std::exp(-0.5 * sigma * sigma);
    out.push_back({w, seconds_of(kTruth, w) * mean_one * steps.noise(sigma)});
  }
  return out;
}

TEST(FitStepsTest, FindsTheFiguresOfStepsWithoutNoise) {
  const StepFit fit = fit_steps(measured(100, 0, 1));
  expect_terms(fit.cost, kTruth, 1e-3);
  EXPECT_LT(fit.sigma, 1e-3);
}

// However noisy, predictions are right on average, and the noise is known.
TEST(FitStepsTest, PredictsTheMeanOfNoisySteps) {
  for (const double sigma : {0.1, 0.3, 0.6}) {
    const std::vector<MeasuredStep> steps = measured(4000, sigma, 2);
    const StepFit fit = fit_steps(steps);
    EXPECT_NEAR(fit.sigma, sigma, 0.05 * sigma);
    double predicted = 0, truth = 0;
    for (const MeasuredStep& step : steps) {
      predicted += seconds_of(fit.cost, step.work);
      truth += seconds_of(kTruth, step.work);
    }
    EXPECT_NEAR(predicted / truth, 1, 0.05) << sigma;
  }
}

// A second of stall is a pause; it neither makes tokens dearer nor is it forgotten.
TEST(FitStepsTest, KeepsStallsApartFromFigures) {
  std::vector<MeasuredStep> steps = measured(1000, 0.05, 4);
  for (size_t i = 99; i < steps.size(); i += 200) steps[i].seconds += 1;
  const StepFit fit = fit_steps(steps);
  ASSERT_EQ(fit.errors.size(), steps.size());
  EXPECT_EQ(fit.errors[98].pause, 0);
  EXPECT_NEAR(fit.errors[99].pause, 1, 0.15);
  EXPECT_EQ(fit.errors[99].factor, 1.5);
  double took = 0, said = 0;
  for (size_t i = 0; i < steps.size(); ++i) {
    const double predicted = seconds_of(fit.cost, steps[i].work);
    took += steps[i].seconds;
    said += predicted;
    EXPECT_NEAR(predicted * fit.errors[i].factor + fit.errors[i].pause, steps[i].seconds, 1e-9);
  }
  EXPECT_NEAR(said / took, 1, 1e-9);
  EXPECT_NEAR(off_by(fit.cost.per_prefill_token / fit.cost.constant,
                     kTruth.per_prefill_token / kTruth.constant),
              0, 0.05);
}

TEST(FitStepsTest, IsNeverNegativeAndFreeOfWhatNoStepHeld) {
  Steps steps(3);
  std::vector<MeasuredStep> odd;
  for (int i = 0; i < 200; ++i) {  // more rows are faster
    const int rows = 1 + i % 8;
    odd.push_back({steps.decodes(rows, 10), 1e-3 / rows});
  }
  const StepFit fit = fit_steps(odd);
  EXPECT_GT(fit.cost.constant, 0);
  EXPECT_GE(fit.cost.per_decode_row, 0);
  EXPECT_GE(fit.cost.per_context_token, 0);
  EXPECT_EQ(fit.cost.per_prefill_token, 0);
  EXPECT_EQ(fit.cost.per_prefill_pair, 0);
  EXPECT_TRUE(std::isfinite(fit.sigma));
}

}  // namespace
}  // namespace sluice
