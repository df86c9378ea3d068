//! TPC-H on `DataFusion`: tables as Parquet files, and the queries.
//!
//! The files are made by a generator of the registries, so nothing is fetched. Benchmarks of
//! caches below `DataFusion` run [`QUERIES`] over them.

#![forbid(unsafe_code)]

mod queries;

use std::error::Error;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::prelude::{ParquetReadOptions, SessionContext};
use folio_loopback::KEYS;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::{ObjectStore, ObjectStoreExt, WriteMultipart};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use tpchgen::generators::{
    CustomerGenerator, LineItemGenerator, NationGenerator, OrderGenerator, PartGenerator,
    PartSuppGenerator, RegionGenerator, SupplierGenerator,
};
use tpchgen_arrow::arrow::record_batch::RecordBatchReader;
use tpchgen_arrow::{
    CustomerArrow, LineItemArrow, NationArrow, OrderArrow, PartArrow, PartSuppArrow, RegionArrow,
    SupplierArrow,
};

pub use queries::QUERIES;

/// The names of the tables. Each is a file `NAME.parquet`.
pub const TABLES: [&str; 8] =
    ["customer", "lineitem", "nation", "orders", "part", "partsupp", "region", "supplier"];

/// Writes all tables into a folder, at a scale factor: at 1, `lineitem` has six million rows. Each
/// row group has `group_rows` rows, except the last of a file.
///
/// # Errors
///
/// Returns those of the file system.
pub fn write_tables(folder: &Path, scale: f64, group_rows: usize) -> Result<(), Box<dyn Error>> {
    let write = |name: &str, rows: Box<dyn RecordBatchReader>| -> Result<(), Box<dyn Error>> {
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_max_row_group_row_count(Some(group_rows))
            .build();
        let file = File::create(folder.join(name).with_extension("parquet"))?;
        let mut writer = ArrowWriter::try_new(file, rows.schema(), Some(properties))?;
        for batch in rows {
            writer.write(&batch?)?;
        }
        writer.close()?;
        Ok(())
    };
    write("customer", Box::new(CustomerArrow::new(CustomerGenerator::new(scale, 1, 1))))?;
    write("lineitem", Box::new(LineItemArrow::new(LineItemGenerator::new(scale, 1, 1))))?;
    write("nation", Box::new(NationArrow::new(NationGenerator::new(scale, 1, 1))))?;
    write("orders", Box::new(OrderArrow::new(OrderGenerator::new(scale, 1, 1))))?;
    write("part", Box::new(PartArrow::new(PartGenerator::new(scale, 1, 1))))?;
    write("partsupp", Box::new(PartSuppArrow::new(PartSuppGenerator::new(scale, 1, 1))))?;
    write("region", Box::new(RegionArrow::new(RegionGenerator::new(scale, 1, 1))))?;
    write("supplier", Box::new(SupplierArrow::new(SupplierGenerator::new(scale, 1, 1))))
}

/// The bytes of a part of an upload.
const PART: usize = 8 << 20;

/// Uploads the files of the tables from a folder to a store, in parts.
///
/// # Errors
///
/// Returns those of the file system and of the store.
pub async fn upload_tables(folder: &Path, store: &dyn ObjectStore) -> Result<(), Box<dyn Error>> {
    for table in TABLES {
        let name = format!("{table}.parquet");
        let mut file = File::open(folder.join(&name))?;
        let upload = store.put_multipart(&name.into()).await?;
        let mut upload = WriteMultipart::new_with_chunk_size(upload, PART);
        let mut part = vec![0; PART];
        loop {
            let read = file.read(&mut part)?;
            if read == 0 {
                break;
            }
            upload.wait_for_capacity(4).await?;
            upload.write(&part[..read]);
        }
        upload.finish().await?;
    }
    Ok(())
}

/// Registers the tables with a session. `place` is the folder, or the URL of an object store that
/// the session knows, with a slash at its end.
///
/// # Errors
///
/// Returns those of `DataFusion`: a file that is missing, for example.
pub async fn register_tables(
    session: &SessionContext,
    place: &str,
) -> datafusion::error::Result<()> {
    for table in TABLES {
        let url = format!("{place}{table}.parquet");
        session.register_parquet(table, url, ParquetReadOptions::default()).await?;
    }
    Ok(())
}

/// The bucket of the tables, for servers of `folio-loopback`.
pub const BUCKET: &str = "tpch";

/// Returns the bucket at a server of `folio-loopback`.
///
/// # Errors
///
/// If the address is no URL.
pub fn s3(address: &str) -> object_store::Result<AmazonS3> {
    AmazonS3Builder::new()
        .with_endpoint(address)
        .with_allow_http(true)
        .with_region("us-east-1")
        .with_bucket_name(BUCKET)
        .with_access_key_id(KEYS.0)
        .with_secret_access_key(KEYS.1)
        .build()
}

/// Runs a query. Returns its answer as a table of text.
///
/// # Errors
///
/// Returns those of `DataFusion`, of a plan or of its run.
pub async fn answer(session: &SessionContext, query: &str) -> datafusion::error::Result<String> {
    let batches = session.sql(query).await?.collect().await?;
    Ok(pretty_format_batches(&batches)?.to_string())
}
