// The entry that libFuzzer calls.
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace sluice {
void fuzz_one(std::string_view input);
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  sluice::fuzz_one({reinterpret_cast<const char*>(data), size});
  return 0;
}
