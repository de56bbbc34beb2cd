// A target without libFuzzer, for every compiler: the seeds, then edits of them for so many
// seconds.
//   fuzz_X SECONDS SEED_DIRECTORY [INPUT_FILE]
// A third argument names a file that gets each input before it runs, to be there after a crash.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {

void fuzz_one(std::string_view input);

namespace {

std::vector<std::string> read_seeds(const char* directory) {
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(directory))
    paths.push_back(entry.path());
  std::sort(paths.begin(), paths.end());
  std::vector<std::string> seeds;
  for (const auto& path : paths) {
    std::ifstream file(path, std::ios::binary);
    seeds.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  return seeds;
}

// One edit: bytes go, come, change, or a piece of another seed is put in.
void edit(std::string& text, const std::vector<std::string>& seeds, std::mt19937& random) {
  const auto below = [&](size_t n) { return n == 0 ? 0 : random() % n; };
  const size_t at = below(text.size() + 1);
  switch (below(5)) {
    case 0:
      text.erase(at, 1 + below(12));
      break;
    case 1:
      text.insert(at, 1, static_cast<char>(below(256)));
      break;
    case 2:
      if (at < text.size()) text[at] = static_cast<char>(text[at] ^ (1 << below(8)));
      break;
    case 3:
      text.insert(at, text.substr(below(text.size()), below(40)));
      break;
    default: {
      const std::string& other = seeds[below(seeds.size())];
      const size_t from = below(other.size());
      text.insert(at, other.substr(from, 1 + below(60)));
    }
  }
}

int run(int seconds, const char* directory, const char* input_file) {
  const std::vector<std::string> seeds = read_seeds(directory);
  if (seeds.empty()) {
    std::fprintf(stderr, "no seeds in %s\n", directory);
    return 2;
  }
  for (const std::string& seed : seeds) fuzz_one(seed);
  std::mt19937 random(1);
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(seconds);
  int64_t runs = 0;
  for (; std::chrono::steady_clock::now() < end; ++runs) {
    std::string text = seeds[random() % seeds.size()];
    for (size_t edits = 1 + random() % 6; edits > 0; --edits) edit(text, seeds, random);
    if (input_file != nullptr) std::ofstream(input_file, std::ios::binary) << text;
    fuzz_one(text);
  }
  std::printf("%zu seeds, %lld edited inputs\n", seeds.size(), static_cast<long long>(runs));
  return 0;
}

}  // namespace
}  // namespace sluice

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: %s SECONDS SEED_DIRECTORY [INPUT_FILE]\n", argv[0]);
    return 2;
  }
  return sluice::run(std::atoi(argv[1]), argv[2], argc > 3 ? argv[3] : nullptr);
}
