//! What `predict`, `reserve` and `release` are asked about: page sizes, amounts and a node, checked
//! against the machine.

use bookend::units::{Bytes, Node, PageSize};
use bookend_defrag::system::pools::Place;
use bookend_defrag::system::{FileError, HugePools};
use clap::Args;

use super::{Context, Failure, check_node};
use crate::cli::parse_size;

/// Size of pages, as a clap value parser: `2M`, `1G`.
///
/// # Errors
/// What is no power of two.
pub fn page_size(text: &str) -> Result<PageSize, String> {
    let bytes = parse_size(text).map_err(|error| error.to_string())?;
    PageSize::from_bytes(bytes).ok_or_else(|| format!("{bytes} is no size of pages: try 2M or 1G"))
}

/// How many pages, by number or by memory; once a size, in the same order as the sizes.
#[derive(Clone, Debug, Args)]
pub struct Amounts {
    /// Size of the pages: 2M or 1G; may be repeated
    #[arg(long = "size", value_name = "SIZE", required = true, value_parser = page_size)]
    sizes: Vec<PageSize>,
    /// How many pages the pool is to have; once for each --size
    #[arg(long, value_name = "N", required_unless_present = "bytes")]
    pages: Vec<u64>,
    /// The same as memory, rounded up to whole pages: 4G; once for each --size
    #[arg(long, value_name = "BYTES", value_parser = parse_size, conflicts_with = "pages")]
    bytes: Vec<Bytes>,
}

/// The pages that pools are to have, and where they come from.
#[derive(Clone, Debug, Args)]
pub struct Target {
    /// Sizes and how many of each.
    #[command(flatten)]
    pub amounts: Amounts,
    /// Only on this NUMA node
    #[arg(long, value_name = "N")]
    pub node: Option<u32>,
    /// Take 2 MiB pages from split 1 GiB pages, so that they lie in long runs
    #[arg(long)]
    pub contiguous: bool,
}

/// One pool and how many pages it is to have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// Size of its pages.
    pub page: PageSize,
    /// How many.
    pub pages: u64,
}

impl Amounts {
    /// What is wanted, the largest pages first: smaller ones would cut up the memory they need.
    ///
    /// # Errors
    /// Sizes and amounts that do not go together, or that this machine does not have.
    pub fn wanted(&self, context: &Context) -> Result<Vec<Wanted>, Failure> {
        let given = self.pages.len() + self.bytes.len();
        if given != self.sizes.len() {
            let sizes = self.sizes.len();
            return Err(Failure::Usage(format!(
                "{sizes} times --size and {given} times --pages or --bytes: give one for each size"
            )));
        }
        let mut wanted = Vec::new();
        for (index, &page) in self.sizes.iter().enumerate() {
            check_page(context, page)?;
            if wanted.iter().any(|other: &Wanted| other.page == page) {
                return Err(Failure::Usage(format!("--size {page} is given twice; give it once")));
            }
            let pages = match self.pages.get(index) {
                Some(&pages) => pages,
                None => self.bytes[index].get().div_ceil(page.bytes().get()),
            };
            check_amount(context, page, pages)?;
            wanted.push(Wanted { page, pages });
        }
        wanted.sort_by_key(|wanted| std::cmp::Reverse(wanted.page));
        Ok(wanted)
    }
}

/// The place that `--node` names.
///
/// # Errors
/// There is no such node.
pub fn place(context: &Context, node: Option<u32>) -> Result<Place, Failure> {
    let node = node.map(Node::new);
    check_node(&context.files, node)?;
    Ok(node.map_or(Place::Machine, Place::Node))
}

/// An error where the kernel has no pool of such pages, that says which it has.
///
/// # Errors
/// That, or what reading failed with.
pub fn check_page(context: &Context, page: PageSize) -> Result<(), Failure> {
    let sizes = match HugePools::of(&context.files).sizes() {
        Err(FileError::Absent { .. }) => Vec::new(),
        sizes => sizes?,
    };
    if sizes.contains(&page) {
        return Ok(());
    }
    let names: Vec<_> = sizes.iter().map(PageSize::to_string).collect();
    let there_are = if names.is_empty() {
        "it is built without huge pages".to_owned()
    } else {
        format!("it has {}", names.join(" and "))
    };
    Err(Failure::Usage(format!("--size {page}: this kernel has no such pages; {there_are}")))
}

/// An error where the machine has less memory than that.
fn check_amount(context: &Context, page: PageSize, pages: u64) -> Result<(), Failure> {
    use bookend_defrag::system::counters::Counters;
    let total = Counters::meminfo(&context.files)?.bytes("MemTotal");
    let fits = |total: Bytes| pages <= total.get() / page.bytes().get();
    match total {
        Some(total) if !fits(total) => Err(Failure::Usage(format!(
            "{pages} pages of {page} are more than this machine's memory of {total}; ask for less"
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_powers_of_two_are_sizes_of_pages() {
        assert_eq!(page_size("2M"), Ok(PageSize::MIB2));
        assert_eq!(page_size("1GiB"), Ok(PageSize::GIB1));
        assert!(page_size("3M").unwrap_err().contains("2M or 1G"));
        assert!(page_size("huge").unwrap_err().contains("\"huge\""));
    }
}
