//! Indexes, opens and reads small datasets, good and bad ones. Trials on real data exist only if
//! `FOREBAY_DATA` is set.

#![expect(clippy::unwrap_used, reason = "a test")]

mod bad;
mod damage;
mod folder;
mod format;
mod make;
mod odd;
mod real;
mod tars;

use libtest_mimic::{Arguments, Trial};

/// A trial for each function, with its name.
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
        folder::equal_copies_have_equal_digests_for_any_number_of_threads,
        folder::linked_folders_are_followed_and_loops_are_refused,
        folder::links_that_multiply_paths_are_refused_and_deep_folders_are_not,
        folder::the_index_can_be_in_another_folder,
        folder::a_failed_build_leaves_the_previous_index,
        format::the_digest_and_index_of_a_folder_never_change,
        format::the_digest_and_index_of_tars_never_change,
        tars::labels_come_from_cls_or_json,
        tars::a_folder_and_a_pattern_name_the_same_dataset,
        tars::patterns_may_be_in_folders,
        tars::class_names_are_the_lines_of_classes_txt,
        tars::malformed_labels_are_refused_with_their_sample,
        tars::two_samples_of_one_key_are_refused_because_their_labels_could_be_exchanged,
        tars::members_that_are_not_samples_are_skipped_and_counted,
        tars::a_dataset_without_samples_says_what_was_skipped,
        tars::class_folders_may_have_their_tars_beside_them,
        tars::a_folder_of_tars_may_have_folders_without_images,
        tars::a_truncated_tar_is_refused,
        tars::a_compressed_tar_is_refused_with_advice,
        tars::tars_of_gnu_tar_are_read,
        tars::an_image_that_is_stored_sparse_is_skipped,
        odd::pipes_and_devices_are_skipped_and_never_read,
        odd::a_tar_or_an_index_that_is_a_pipe_is_refused,
        odd::a_huge_file_is_skipped_and_never_read,
        odd::links_to_nothing_are_skipped_and_named,
        odd::more_skipped_samples_than_a_share_refuse_a_dataset,
        odd::a_record_that_became_a_pipe_is_refused,
        odd::names_that_are_not_utf8_matter_only_for_images,
        bad::paths_that_are_not_datasets_are_refused,
        bad::classes_without_images_are_refused_as_by_torchvision,
        bad::a_dataset_without_good_records_is_refused,
        bad::a_missing_or_damaged_index_is_refused_with_advice,
        bad::a_changed_file_is_detected,
        bad::a_changed_shard_is_detected,
        bad::a_shard_that_is_truncated_while_open_loses_only_its_end,
        bad::a_shard_that_was_replaced_while_open_is_read_by_its_path,
        bad::shards_beyond_the_limit_of_open_files_are_read,
        damage::a_flipped_byte_of_an_index_never_changes_a_pixel,
        damage::damaged_entry_points_cost_time_and_nothing_else,
    ];
    if let Some(data) = forebay_tests::data() {
        trials.extend(real::trials(&data));
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}
