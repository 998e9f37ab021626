//! Datasets made on the fly, good and bad: index, open, read. Those on real data, `FOREBAY_DATA`,
//! are there only where it is set.

#![expect(clippy::unwrap_used, reason = "a test")]

mod bad;
mod folder;
mod make;
mod real;
mod tars;

use libtest_mimic::{Arguments, Trial};

/// One trial a function, named by it.
macro_rules! trials {
    ($($module:ident::$name:ident),* $(,)?) => {
        vec![$(Trial::test(
            concat!(stringify!($module), "::", stringify!($name)),
            || { $module::$name(); Ok(()) },
        )),*]
    };
}

fn main() {
    let mut trials = trials![
        folder::order_and_labels_are_those_of_torchvision,
        folder::a_record_that_does_not_decode_is_bad_and_replaced,
        folder::equal_copies_have_equal_digests_on_any_number_of_threads,
        folder::linked_folders_are_followed_and_loops_refused,
        folder::the_index_can_lie_elsewhere,
        folder::a_failed_build_leaves_the_earlier_index,
        tars::labels_come_from_cls_or_json,
        tars::shards_by_folder_and_by_pattern_are_the_same_dataset,
        tars::classes_have_names_where_classes_txt_is,
        tars::samples_that_lack_something_are_named,
        tars::a_cut_tar_is_refused,
        bad::paths_that_are_no_dataset,
        bad::folders_that_torchvision_refuses,
        bad::unreadable_files_are_named,
        bad::a_dataset_without_a_good_record,
        bad::no_index_or_a_damaged_one,
        bad::files_that_changed_since,
        bad::shards_that_changed_since,
        bad::a_shard_that_is_cut_while_it_is_open,
        bad::more_shards_than_stay_open,
    ];
    if let Some(data) = forebay_tests::data() {
        trials.extend(real::trials(&data));
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}
