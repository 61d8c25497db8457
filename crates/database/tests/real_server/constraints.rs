//! Named constraints become a caller's error where the caller of the database says so.

use database::{map_error, on_constraint};
use problem::{Kind, Problem};

use crate::world::World;

async fn violate(world: &World) -> sqlx::Error {
    let pool = world.database.pool();
    let insert = sqlx::query("INSERT INTO public.item VALUES (1), (1)").execute(&pool);
    world.database.bounded("violate", insert).await.unwrap_err()
}

#[tokio::test]
async fn a_known_constraint_is_the_callers_problem_and_any_other_is_ours() {
    let world = World::new().await;
    world
        .sql(
            "CREATE TABLE public.item (id int CONSTRAINT item_id_key UNIQUE); \
             GRANT ALL ON public.item TO public; GRANT USAGE ON SCHEMA public TO public",
        )
        .await;
    let taken = |name: &str| (name == "item_id_key").then(|| Problem::new(Kind::Conflict, "the id is taken"));
    assert_eq!(on_constraint(violate(&world).await, taken).kind(), Kind::Conflict);
    assert_eq!(on_constraint(violate(&world).await, |_| None).kind(), Kind::Internal);
    assert_eq!(map_error(violate(&world).await).kind(), Kind::Internal);
}
