//! Which volume a disk is. A disk has two names, of which Ganeti gives the second only sometimes: `VOL_NAME`, which it made up, and
//! `VOL_CNAME`, which somebody gave to the disk. The volume is called by one of them, and has the first noted as a label.

use archipelago_core::{Kind, Store, VolumeInfo, name};
use archipelago_service::config::Naming;
use archipelago_service::ganeti;

use crate::environment::{Environment, shown};
use crate::error::ProviderError;

/// The names of a disk.
#[derive(Debug)]
pub struct Names<'a> {
    /// What Ganeti made up.
    vol_name: &'a str,
    /// The disk's own, if it has one.
    cname: Option<&'a str>,
    naming: Naming,
}

impl<'a> Names<'a> {
    /// The names in the environment. `VOL_NAME` must be there, and be one that a volume may have.
    pub fn of(environment: &'a Environment, naming: Naming) -> Result<Names<'a>, ProviderError> {
        let vol_name = environment.needed("VOL_NAME")?;
        check("VOL_NAME", vol_name)?;
        Ok(Names { vol_name, cname: environment.text("VOL_CNAME")?, naming })
    }

    /// Names that were found elsewhere.
    pub fn new(vol_name: &'a str, cname: Option<&'a str>, naming: Naming) -> Names<'a> {
        Names { vol_name, cname, naming }
    }

    /// What Ganeti made up.
    pub fn vol_name(&self) -> &'a str {
        self.vol_name
    }

    /// What a new volume is to be called. A disk whose own name no volume may have is refused.
    pub fn for_new(&self) -> Result<&'a str, ProviderError> {
        match (self.naming, self.cname) {
            (Naming::Name, _) | (_, None) => Ok(self.vol_name),
            (_, Some(cname)) => check("VOL_CNAME", cname).map(|()| cname),
        }
    }

    /// The volume or snapshot that the disk is, if it is there.
    pub fn find(&self, store: &Store) -> Result<Option<VolumeInfo>, ProviderError> {
        // A name that no volume may have leads to none: disks may be renamed to anything.
        let by_cname = self.cname.map(|cname| store.lookup(cname)).transpose()?.flatten();
        let by_name = store.lookup(self.vol_name)?;
        // Most of the time one of these says that it is the one, and nothing has to be searched.
        let says_so = |info: &&VolumeInfo| info.labels.get(ganeti::NAME) == Some(self.vol_name);
        let by_label = match by_cname.iter().chain(&by_name).find(says_so) {
            Some(info) => vec![info.clone()],
            None => store.find_labelled(ganeti::NAME, self.vol_name)?,
        };
        let in_turn = match self.naming {
            Naming::Either | Naming::Cname => by_cname.into_iter().chain(by_label).chain(by_name).collect::<Vec<_>>(),
            Naming::Name => by_name.into_iter().chain(by_label).chain(by_cname).collect(),
        };
        let mut found: Vec<VolumeInfo> = Vec::new();
        for info in in_turn.into_iter().filter(|info| matches!(info.kind, Kind::Volume | Kind::Snapshot)) {
            if found.iter().all(|other| other.id != info.id) {
                found.push(info);
            }
        }
        if self.naming == Naming::Either && found.len() > 1 {
            return Err(ProviderError::Ambiguous(found.into_iter().map(|info| info.name).collect()));
        }
        Ok(found.into_iter().next())
    }

    /// The same; that it is not there is an error.
    pub fn must_find(&self, store: &Store, shown_as: &str) -> Result<VolumeInfo, ProviderError> {
        let missing = || ProviderError::Missing { looked_for: self.in_words(), store: shown_as.to_string() };
        self.find(store)?.ok_or_else(missing)
    }

    /// The names that were tried.
    pub fn in_words(&self) -> String {
        match self.cname {
            Some(cname) => format!("{}, or {} by name or label", shown(cname), shown(self.vol_name)),
            None => format!("{} by name or label", shown(self.vol_name)),
        }
    }
}

/// Refuses a name that no volume may have.
pub fn check(variable: &str, value: &str) -> Result<(), ProviderError> {
    name::check(value).map_err(|error| ProviderError::Variable {
        name: variable.to_string(),
        reason: match error {
            archipelago_core::Error::InvalidName { reason, .. } => {
                format!("is {}, which cannot be the name of a volume: {reason}", shown(value))
            }
            other => other.to_string(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use archipelago_core::{CreateOptions, InitOptions, Location, StoreOptions};

    const NAME: &str = "d7a6.ext.disk0";

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let location = Location::File(dir.path().join("store"));
        Store::init(&location, &InitOptions::default()).unwrap();
        let store = Store::open(&location, StoreOptions::default()).unwrap();
        (dir, store)
    }

    fn create(store: &Store, name: &str, label: Option<&str>) {
        let options = CreateOptions { size: 1 << 20, block_size: None };
        let labels: Vec<_> = label.iter().map(|label| (ganeti::NAME, Some(*label))).collect();
        store.create_labelled(name, &options, &labels).unwrap();
    }

    fn find(store: &Store, cname: Option<&str>, naming: Naming) -> Result<Option<String>, Vec<String>> {
        match Names::new(NAME, cname, naming).find(store) {
            Ok(found) => Ok(found.map(|info| info.name)),
            Err(ProviderError::Ambiguous(names)) => Err(names),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn a_disk_is_found_by_its_name_its_label_and_what_ganeti_made_up() {
        let (_dir, store) = store();
        assert_eq!(find(&store, Some("disk-1"), Naming::Either), Ok(None));
        create(&store, "disk-1", Some(NAME));
        for (cname, naming) in [
            (Some("disk-1"), Naming::Either),
            (None, Naming::Either),
            (Some("a b"), Naming::Either),
            (None, Naming::Name),
        ] {
            // With its name, without it as `snapshot` is called, and after the disk was renamed to something no volume may be called.
            assert_eq!(find(&store, cname, naming), Ok(Some("disk-1".into())), "{cname:?}");
        }
        // Of an older cluster, whose volumes were called as Ganeti calls them.
        store.rename("disk-1", "disk-2").unwrap();
        store.remove("disk-2").unwrap();
        create(&store, NAME, None);
        assert_eq!(find(&store, Some("disk-1"), Naming::Either), Ok(Some(NAME.into())));
    }

    #[test]
    fn names_that_lead_to_different_volumes_are_refused_unless_one_side_is_to_win() {
        let (_dir, store) = store();
        create(&store, "disk-1", None);
        create(&store, NAME, None);
        let both = || Err(vec!["disk-1".to_string(), NAME.to_string()]);
        assert_eq!(find(&store, Some("disk-1"), Naming::Either), both());
        assert_eq!(find(&store, Some("disk-1"), Naming::Cname), Ok(Some("disk-1".into())));
        assert_eq!(find(&store, Some("disk-1"), Naming::Name), Ok(Some(NAME.into())));
        // Another volume says that it is the disk.
        store.remove(NAME).unwrap();
        create(&store, "disk-2", Some(NAME));
        assert_eq!(find(&store, Some("disk-1"), Naming::Either), Err(vec!["disk-1".into(), "disk-2".into()]));
        assert_eq!(find(&store, Some("disk-2"), Naming::Either), Ok(Some("disk-2".into())));
    }

    #[test]
    fn a_snapshot_of_an_export_is_never_its_disk() {
        let (_dir, store) = store();
        create(&store, "disk-1", Some(NAME));
        let exported = format!("{NAME}.snap");
        let names = Names::new(&exported, None, Naming::Either);
        assert!(names.find(&store).unwrap().is_none());
        store.snapshot("disk-1", &exported).unwrap();
        assert_eq!(names.find(&store).unwrap().unwrap().name, exported);
    }
}
