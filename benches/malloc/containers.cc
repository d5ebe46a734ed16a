// C++ programs: `new` and `delete` as the standard containers call them, one thread.
//
// cpp-containers: a map of strings, lists that are spliced and sorted, vectors of strings, shared
// pointers; what an ordinary C++ service does all day. Built as a program of its own, so that the
// patterns in C do not load libstdc++. Same options, output and statuses as malloc-patterns.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

namespace {

struct Rng {
    std::uint64_t state;
    std::uint32_t next() {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        return static_cast<std::uint32_t>((state * 0x2545f4914f6cdd1dULL) >> 32);
    }
    std::uint32_t below(std::uint32_t bound) {
        return static_cast<std::uint32_t>((std::uint64_t{next()} * bound) >> 32);
    }
};

// Longer than what std::string keeps inside itself, mostly; ends with its own key.
std::string text(Rng &rng, std::uint32_t key) {
    std::string out(4 + rng.below(60), 'x');
    return out += std::to_string(key);
}

void require(bool condition) {
    if (!condition) {
        std::fputs("an object was written by somebody else\n", stderr);
        std::exit(3);
    }
}

// An ordered index, entries coming and going.
std::uint64_t index_churn(Rng &rng, std::uint64_t steps) {
    std::map<std::uint32_t, std::string> index;
    for (std::uint64_t i = 0; i < steps; i++) {
        std::uint32_t key = rng.below(20000);
        auto found = index.find(key);
        if (found == index.end()) {
            index.emplace(key, text(rng, key));
        } else {
            const std::string end = std::to_string(key);
            const std::string &value = found->second;
            require(value.compare(value.size() - end.size(), end.size(), end) == 0);
            index.erase(found);
        }
    }
    return steps;
}

// Reads words, counts them, sorts them.
std::uint64_t word_count(Rng &rng, std::uint64_t steps) {
    std::unordered_map<std::string, std::shared_ptr<std::uint64_t>> counts;
    for (std::uint64_t i = 0; i < steps; i++) {
        auto &count = counts["a word that is long enough " + std::to_string(rng.below(5000))];
        if (!count)
            count = std::make_shared<std::uint64_t>(0);
        ++*count;
    }
    std::vector<std::pair<std::string, std::uint64_t>> sorted;
    std::uint64_t total = 0;
    for (const auto &[word, count] : counts) {
        sorted.emplace_back(word, *count);
        total += *count;
    }
    std::sort(sorted.begin(), sorted.end());
    require(total == steps && std::is_sorted(sorted.begin(), sorted.end()));
    return steps;
}

// Work lists: filled, sorted by relinking, emptied from the front.
std::uint64_t work_list(Rng &rng, std::uint64_t steps) {
    std::list<std::uint32_t> list;
    for (std::uint64_t i = 0; i < steps; i++)
        list.push_back(rng.next());
    list.sort();
    std::uint32_t latest = 0;
    while (!list.empty()) {
        require(list.front() >= latest);
        latest = list.front();
        list.pop_front();
    }
    return steps;
}

void print_peak() {
    char line[256];
    unsigned long kib;
    if (std::FILE *status = std::fopen("/proc/self/status", "r")) {
        while (std::fgets(line, sizeof line, status))
            if (std::sscanf(line, "VmHWM: %lu kB", &kib) == 1)
                std::printf("peak_kib %lu\n", kib);
        std::fclose(status);
    }
}

}  // namespace

int main(int argc, char **argv) {
    double scale = 1.0;
    if (argc == 2 && std::strcmp(argv[1], "--list") == 0)
        return std::puts("cpp-containers") < 0;
    if (argc < 2 || std::strcmp(argv[1], "cpp-containers") != 0)
        return 1;
    for (int i = 2; i + 1 < argc; i += 2)
        if (std::strcmp(argv[i], "--scale") == 0)
            scale = std::strtod(argv[i + 1], nullptr);
    const auto rounds = static_cast<std::uint64_t>(std::max(scale * 40, 1.0));
    const auto steps = static_cast<std::uint64_t>(std::min(1.0, scale * 40) * 60000) + 100;
    Rng rng{0x9e3779b97f4a7c15ULL};
    std::uint64_t operations = 0;
    for (std::uint64_t round = 0; round < rounds; round++) {
        operations += index_churn(rng, steps);
        operations += word_count(rng, steps);
        operations += work_list(rng, steps / 2);
    }
    std::printf("operations %llu\n", static_cast<unsigned long long>(operations));
    print_peak();
}
