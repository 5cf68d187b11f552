// Runs a fuzz target where there is no libFuzzer: all seeds, then changed ones, the same on every run.
//   TARGET-mutations COUNT SEED-DIRECTORY
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

void change(std::string& input, std::mt19937_64& random) {
  const std::size_t at = input.empty() ? 0 : random() % input.size();
  constexpr std::uint64_t kTelling[] = {0, 1, 0x7f, 0x80, 0xff, 0x10, 0x20, 0x08};
  switch (random() % 6) {
    case 0: input.resize(at); break;
    case 1: input.insert(at, input.substr(random() % (input.size() + 1), random() % 64)); break;
    case 2: input.erase(at, random() % 16); break;
    case 3: input.insert(at, 1, static_cast<char>(random())); break;
    case 4:
      if (!input.empty()) input[at] = static_cast<char>(kTelling[random() % 8]);
      break;
    default:
      if (!input.empty()) input[at] = static_cast<char>(input[at] ^ (1 << random() % 8));
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  std::vector<std::string> seeds;
  for (const auto& entry : std::filesystem::directory_iterator(argv[2])) {
    std::ifstream in(entry.path(), std::ios::binary);
    seeds.emplace_back(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
  }
  if (seeds.empty()) {
    std::cerr << "no seeds in " << argv[2] << "\n";
    return 1;
  }
  const auto run = [](const std::string& input) {
    LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(input.data()), input.size());
  };
  for (const std::string& seed : seeds) run(seed);
  std::mt19937_64 random(1);
  const long count = std::atol(argv[1]);
  for (long i = 0; i < count; ++i) {
    std::string input = seeds[random() % seeds.size()];
    for (unsigned n = 1 + random() % 4; n > 0; --n) change(input, random);
    run(input);
  }
  std::cout << seeds.size() << " seeds, " << count << " changed ones\n";
}
