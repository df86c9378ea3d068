//! All queries run over local files, with the same answers for any size of row groups.

use datafusion::prelude::{SessionConfig, SessionContext};
use folio_datafusion::{QUERIES, answer, register_tables, write_tables};

/// Returns the answer to each query, as text.
async fn answers(group_rows: usize) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    write_tables(dir.path(), 0.01, group_rows).unwrap();
    let session = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(2));
    register_tables(&session, &format!("{}/", dir.path().display())).await.unwrap();
    let mut answers = Vec::new();
    for query in QUERIES {
        answers.push(answer(&session, query).await.unwrap());
    }
    answers
}

#[tokio::test]
async fn the_queries_answer_alike_for_any_row_groups() {
    let (small, large) = (answers(5_000).await, answers(1_000_000).await);
    for (number, (small, large)) in (1..).zip(small.iter().zip(&large)) {
        assert_eq!(small, large, "query {number}");
    }
    // A fact of the specification's data: the orders of query 1 are in four groups.
    assert_eq!(small[0].lines().count(), 4 + 4, "{}", small[0]);
}
