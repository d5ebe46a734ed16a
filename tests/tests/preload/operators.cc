// new and delete in all their forms; what is thrown, and who is called before.
#include "check.h"
#include <cstdint>
#include <cstdlib>
#include <map>
#include <new>
#include <string>
#include <vector>

static size_t opaque(size_t value) { __asm__ volatile("" : "+r"(value)); return value; }
static int handled;
static void handler() {
    if (++handled == 3) std::set_new_handler(nullptr);
}
struct alignas(256) Wide { char bytes[700]; };

int main() {
    delete new int(3);
    delete[] new char[opaque(1000)];
    ::operator delete(::operator new(opaque(40)), opaque(40));
    ::operator delete[](::operator new[](opaque(40), std::nothrow), std::nothrow);
    Wide *wide = new Wide, *many = new Wide[5];
    CHECK((uintptr_t)wide % 256 == 0 && (uintptr_t)many % 256 == 0);
    delete wide;
    delete[] many;
    void *aligned = ::operator new(opaque(100), std::align_val_t(4096), std::nothrow);
    CHECK(aligned && (uintptr_t)aligned % 4096 == 0);
    ::operator delete(aligned, opaque(100), std::align_val_t(4096));

    bool thrown = false;
    try {
        void *volatile p = ::operator new(opaque(SIZE_MAX / 4));
        (void)p;
    } catch (const std::bad_alloc &) {
        thrown = true;
    }
    CHECK(thrown);
    CHECK(::operator new(opaque(SIZE_MAX / 4), std::nothrow) == nullptr);

    std::set_new_handler(handler);
    thrown = false;
    try {
        void *volatile p = ::operator new[](opaque(SIZE_MAX / 4));
        (void)p;
    } catch (const std::bad_alloc &) {
        thrown = true;
    }
    CHECK(thrown && handled == 3);
    handled = 0;
    std::set_new_handler(handler);
    CHECK(::operator new(opaque(SIZE_MAX / 4), std::nothrow) == nullptr && handled == 3);

    // A handler that throws is the ordinary way to give up.
    std::set_new_handler([] { throw std::bad_alloc(); });
    CHECK(::operator new(opaque(SIZE_MAX / 4), std::nothrow) == nullptr);
    thrown = false;
    try {
        void *volatile p = ::operator new(opaque(SIZE_MAX / 4));
        (void)p;
    } catch (const std::bad_alloc &) {
        thrown = true;
    }
    CHECK(thrown);

    std::map<std::string, std::vector<int>> map;
    for (int i = 0; i < 20000; i++) map[std::to_string(i % 777)].push_back(i);
    CHECK(map.size() == 777 && map["5"][1] == 782);
    return 0;
}
