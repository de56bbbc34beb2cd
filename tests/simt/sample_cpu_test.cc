// The sampler on the emulator and the CPU's, from the same logits and the same batch.
#include "kernels/cpu/device.h"
#include "tests/simt/sample_test.h"

namespace sluice::cuda {
namespace {

TEST(SampleOnTwoDevices, TokensAndLogprobsAgree) {
  const std::unique_ptr<Device> cpu = make_cpu_device({1, "auto"}).value();
  int near = 0, all = 0;
  for (const int64_t vocab : {1, 7, 33, 1000, 4099}) {
    constexpr int kTop = 3;
    Logits logits = Logits(3, vocab).fill(uint32_t(vocab) + 1, 2.5f);
    std::mt19937 random(11 + simt::run_seed());
    const auto below = [&](int n) { return int(random() % uint32_t(n)); };
    std::vector<Draw> draws;
    for (int i = 0; i < 30; ++i) {
      Draw d;
      d.row = below(3), d.temperature = i % 6 == 0 ? 0 : 0.3f + float(below(20)) / 10;
      d.seed = random(), d.position = below(5000);
      if (below(2)) d.top_k = 1 + below(int(vocab) + 2);
      if (below(2)) d.top_p = float(below(100)) / 100;
      if (below(3) == 0) d.min_p = float(below(30)) / 100;
      if (below(3) == 0) {
        d.repetition = 1.4f, d.presence = -0.5f, d.frequency = 0.125f;
        for (int id = below(3); id < vocab; id += 3) d.history.push_back({id, below(4)});
      }
      if (below(3) == 0) {
        for (int k = 0; k < 20; ++k)
          d.biases.push_back({below(int(vocab)), below(4) == 0 ? -kInf : float(below(9)) - 4});
      }
      if (below(4) == 0) {
        for (int id = 0; id < vocab; ++id) {
          if (below(2)) d.banned.push_back(id);
        }
      }
      draws.push_back(d);
    }
    const Result got = draw(logits, draws, kTop);
    const Batch b(draws, vocab, kTop);
    Result want(int64_t(draws.size()), kTop);
    cpu->ops().sample(want.out(kTop), logits.tensor(), b.batch);
    for (size_t i = 0; i < draws.size(); ++i) {
      if (got.token[i] == want.token[i]) {
        EXPECT_NEAR(got.logprob[i], want.logprob[i], 1e-4);
      } else {
        EXPECT_TRUE(expect(logits.row(draws[i].row), vocab, draws[i]).near)
            << "vocabulary " << vocab << ", draw " << i << ": " << got.token[i] << ", not "
            << want.token[i];
        ++near;
      }
      for (size_t j = i * kTop; j < (i + 1) * kTop; ++j) {
        EXPECT_EQ(got.top_token[j], want.top_token[j]);
        if (got.top_token[j] < 0) continue;  // -inf
        EXPECT_NEAR(got.top_logprob[j], want.top_logprob[j], 1e-4);
      }
      ++all;
    }
  }
  EXPECT_LE(near * 100, all) << "of " << all;
}

}  // namespace
}  // namespace sluice::cuda
